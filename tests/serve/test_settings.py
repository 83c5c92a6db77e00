"""Where a server listens, and what it asks for."""

from __future__ import annotations

from typing import Any

import pytest

from tailorbird.errors import UsageError
from tailorbird.serve.settings import Settings, bind, is_loopback, url


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "example.org", "localhost.example", ""])
def test_an_open_door_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="no API key") as caught:
        Settings(host)
    assert "TAILORBIRD_API_KEY" in caught.value.hint
    assert Settings(host, api_key="a-good-key").host == host


@pytest.mark.parametrize("key", ["", "short", "with a space", "käse-käse-käse", "line\nline\nline"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        Settings(api_key=key)


@pytest.mark.parametrize(
    "wrong",
    [
        {"slots": 0},
        {"queue": -1},
        {"port": 70000},
        {"port": -1},
        {"grace": -1.0},
        {"grace": float("nan")},
        {"tokens": 0},
    ],
)
def test_bad_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Settings(**wrong)


def test_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LocalHost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.", "127.0.0.1.example", "", "[]")))


def test_ports_that_are_taken() -> None:
    with bind(Settings(port=0)) as bound:
        bound.listen()
        port = bound.getsockname()[1]
        assert url(Settings(port=0), bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(UsageError, match=f"port {port}"):
            bind(Settings(port=port))
    with pytest.raises(UsageError, match="can't listen"):
        bind(Settings("no such host.invalid", api_key="a-good-key"))
