"""What is refused, with which status, in which shape; and that nothing a client sends becomes the server's fault."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

TALK = [{"role": "user", "content": "A"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def told(content: bytes) -> Any:
    """An error, which must have OpenAI's shape."""
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "required"),
        ({"prompt": "A", "n": 2}, "n", "only 1 is supported"),
        ({"prompt": "A", "best_of": 3}, "best_of", "only 1"),
        ({"prompt": "A", "echo": True}, "echo", "only False"),
        ({"prompt": "A", "logprobs": 3}, "logprobs", "is not supported"),
        ({"prompt": "A", "presence_penalty": 1}, "presence_penalty", "only 0"),
        ({"prompt": "A", "logit_bias": {"5": 1}}, "logit_bias", "only {}"),
        ({"prompt": "A", "max_token": 4}, "max_token", "not permitted"),
        ({"prompt": "A", "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"prompt": "A", "max_tokens": 10**100}, "max_tokens", "more than the 4096"),
        ({"prompt": "A", "max_tokens": "4"}, "max_tokens", "integer"),
        ({"prompt": "A", "max_tokens": True}, "max_tokens", "integer"),
        ({"prompt": "A", "temperature": -1}, "temperature", "greater than"),
        ({"prompt": "A", "temperature": float("nan")}, "temperature", "finite"),
        ({"prompt": "A", "temperature": float("inf")}, "temperature", "finite"),
        ({"prompt": "A", "temperature": 10**400}, "temperature", ""),
        ({"prompt": "A", "top_p": 0}, "top_p", "greater than 0"),
        ({"prompt": "A", "top_k": 10**30}, "top_k", "less than"),
        ({"prompt": "A", "min_p": 1.5}, "min_p", "less than"),
        ({"prompt": "A", "seed": 2**63}, "seed", "less than"),
        ({"prompt": "A", "seed": 10**60}, "seed", "less than"),
        ({"prompt": "A", "stop": ["a"] * 17}, "stop", "at most 16"),
        ({"prompt": "A", "stop": ""}, "stop", "at least 1"),
        ({"prompt": "A", "stream": "yes"}, "stream", "boolean"),
        ({"prompt": "A", "stream_options": {"include": 1}}, "stream_options", "not permitted"),
        ({"prompt": ["A", "B"]}, "prompt", "one text, or"),
        ({"prompt": []}, "prompt", "one text, or"),
        ({"prompt": [[1, 2]]}, "prompt", "one text, or"),
        ({"prompt": [-1]}, "prompt", "one text, or"),
        ({"prompt": [10**9]}, None, "not one of the 320"),
        ({"prompt": "\ud800"}, "prompt", "not Unicode"),
        ({"prompt": "A", "\ud800": 1}, "", ""),
        ({"prompt": "A", "x" * 100_000: 1}, "", "not permitted"),
        ({"prompt": {"a": 1}}, "prompt", ""),
        ({"prompt": "A" * 5000}, None, "more than the 1024"),
        ([], "", ""),
        (None, "", ""),
        (7, "", ""),
    ],
    ids=lambda value: json.dumps(value)[:60] if not isinstance(value, str) else "",
)
def test_wrong_completions(running: Any, body: Any, param: str | None, message: str) -> None:
    status, _, content = running.request("POST", TEXT, json.dumps(body).encode())
    assert status == 400, content
    error = told(content)
    assert error["type"] == "invalid_request_error" and message in error["message"]
    assert (error["param"] or "").startswith(param or "")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "at least 1"),
        ({"messages": TALK * 257}, "more than the 256"),
        ({"messages": [{"role": "tool", "content": "A"}]}, "system"),
        ({"messages": [{"role": "user"}]}, "required"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "text"),
        ({"messages": [TALK[0], {"role": "system", "content": "B"}]}, "a system message comes first"),
        ({"messages": TALK, "tools": [{"type": "function"}]}, "only [] is supported"),
        ({"messages": TALK, "response_format": {"type": "json_object"}}, "only {'type': 'text'}"),
        ({"messages": TALK, "n": 3}, "only 1"),
        ({"messages": TALK, "logprobs": True}, "only False"),
        ({"messages": TALK, "max_completion_tokens": 5000}, "more than the 4096"),
    ],
)
def test_wrong_chats(running: Any, body: Any, message: str) -> None:
    status, _, content = running.request("POST", CHAT, body)
    assert status == 400, content
    assert message in told(content)["message"]


def test_what_has_no_effect_is_taken(running: Any) -> None:
    body = {
        "messages": TALK,
        "max_tokens": 2,
        "user": "me",
        "metadata": {"a": 1},
        "n": 1,
        "logit_bias": {},
        "tools": [],
    }
    body |= {"response_format": {"type": "text"}, "presence_penalty": 0.0, "stop": None, "tool_choice": "auto"}
    assert running.request("POST", CHAT, body)[0] == 200


def test_other_models_other_paths_other_methods(running: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        running.client.completions.create(model="gpt", prompt="A")
    for method, path, wanted in [
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", CHAT, 405),
        ("OPTIONS", CHAT, 405),
        ("DELETE", "/", 405),
        ("GET", "/v1/models/" + "%2e%2e%2f" * 9, 404),
    ]:
        status, headers, content = running.request(method, path)
        assert status == wanted
        assert told(content)["type"] == "invalid_request_error"
        assert not any(name.startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"prompt":' * 50_000,
        b'{"prompt": "A", "user": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"prompt": "A", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "A", "temperature": NaN}',
        b'{"prompt": "A", "temperature": 1e999}',
        b'{"prompt": "A", "prompt": 3}',
        b'{"prompt": "\\ud800", "max_tokens": 2}',
        b'{"prompt": "A\\u0000", "max_tokens": 2, "stop": "\\udfff"}',
    ],
    ids=range(12),
)
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_hostile_bodies(running: Any, body: bytes, path: str) -> None:
    status, _, content = running.request("POST", path, body)
    assert status in (200, 400), content
    if status != 200:
        told(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = [
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("seed", "stop", "stream", "stream_options", "n", "logit_bias", "logprobs", "tools", "user", "response_format"),
]


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=4), st.sampled_from([CHAT, TEXT]), st.booleans())
def test_no_body_is_the_servers_fault(running: Any, body: dict[str, Any], path: str, valid: bool) -> None:
    if valid:
        body = {"messages": TALK} | body if path == CHAT else {"prompt": "A"} | body
    body.setdefault("max_tokens", 2)
    if body["max_tokens"] is None or body.get("max_completion_tokens", 0) is None:
        body |= {"max_tokens": 2}
    status, _, content = running.request("POST", path, body)
    assert status in (200, 400, 404), content


def test_content_type(running: Any) -> None:
    """A form or a text is what a page of another site may send without asking."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        status, _, content = running.request("POST", TEXT, b'{"prompt": "A"}', {"content-type": kind})
        assert status == 415
        told(content)
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert running.request("POST", TEXT, b'{"prompt": "A", "max_tokens": 1}', headers)[0] == 200


def test_only_this_machines_names_are_answered(running: Any) -> None:
    port = running.address[1]
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", f"127.0.0.1:{port}", "[::1]", f"[::1]:{port}"):
        assert running.request("GET", "/healthz", headers={"host": host})[0] == 200
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:80",
        "192.168.0.1",
        "",
        "[::2]:8000",
    ):
        status, _, content = running.request("GET", "/", headers={"host": host})
        assert status == 403
        assert told(content)["code"] == "wrong_host"


def test_the_answer_to_what_is_no_request_arrives(serve: Any, model: Any) -> None:
    """To close while bytes are on their way would reset the connection."""
    with serve(model) as running, socket.create_connection(running.address, timeout=60) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: here\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n")
        assert slow.recv(1, socket.MSG_PEEK)  # the answer is there
        for _ in range(3):
            slow.sendall(b"{}")
            time.sleep(0.1)
        with slow.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"400"
            assert b"connection: close" in answer.read().lower()


def test_bodies_are_bounded(serve: Any, model: Any) -> None:
    with serve(model, body_bytes=2000) as running:
        large = b'{"prompt": "' + b"A" * 5000 + b'"}'
        status, headers, content = running.request("POST", TEXT, large)
        assert status == 413 and headers["connection"] == "close"
        assert "2000 bytes" in told(content)["message"]
        # Without an announced length it is counted as it comes.
        with contextlib.closing(http.client.HTTPConnection(*running.address, timeout=60)) as connection:
            pieces = (large[at : at + 100] for at in range(0, len(large), 100))
            connection.request("POST", TEXT, pieces, {"content-type": "application/json"}, encode_chunked=True)
            assert connection.getresponse().status == 413
        lying = {"content-length": "9" * 30}
        assert running.request("POST", TEXT, b"{}", {"content-type": "application/json"} | lying)[0] in (400, 413)


def test_a_refusal_arrives_while_the_request_is_still_sent(serve: Any, model: Any) -> None:
    """Closed at once, the connection would be reset under the sender, and the answer lost with it."""
    with serve(model, body_bytes=2000) as running, socket.create_connection(running.address, timeout=60) as slow:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 30000\r\n\r\n".encode())
        for _ in range(10):
            slow.sendall(b"A" * 3000)
            time.sleep(0.01)
        with slow.makefile("rb") as answer:
            assert answer.readline().startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come(serve: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.serve.guard._BODY_SECONDS", 0.2)
    with serve(model) as running, socket.create_connection(running.address, timeout=60) as slow:
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        slow.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come(sent: bytes, serve: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor after a first request on the same connection."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    monkeypatch.setattr("tailorbird.serve.server._HEADER_SECONDS", 0.5)
    with serve(model) as running:
        with socket.create_connection(running.address, timeout=60) as slow:
            slow.sendall(sent)
            assert slow.recv(100) == b""
        with socket.create_connection(running.address, timeout=60) as slow, slow.makefile("rb") as answer:
            slow.sendall(whole)
            assert answer.readline().startswith(b"HTTP/1.1 200")
            slow.sendall(sent or b"G")
            assert b"\r\n\r\n" in answer.read()  # to its end
        assert running.request("GET", "/healthz")[0] == 200


def test_limits_of_the_server(serve: Any, model: Any, template: Any) -> None:
    with serve(model, template, prompt_tokens=8, tokens=5, messages=2) as running:
        create = running.client.completions.create
        # Always the most likely token: a drawn one may be the end of the text.
        assert create(model="tiny", prompt="A", temperature=0).usage.completion_tokens == 5
        with pytest.raises(openai.BadRequestError, match="more than the 5 this server gives"):
            create(model="tiny", prompt="A", max_tokens=6)
        with pytest.raises(openai.BadRequestError, match="more than the 8 this server reads"):
            create(model="tiny", prompt=[3] * 9)
        with pytest.raises(openai.BadRequestError, match="more than the 2 this server takes"):
            running.client.chat.completions.create(model="tiny", messages=TALK * 3)  # type: ignore[arg-type]


def test_a_model_without_a_template(serve: Any, model: Any) -> None:
    with serve(model) as running:
        with pytest.raises(openai.BadRequestError, match="--plain-chat"):
            running.client.chat.completions.create(model="tiny", messages=TALK)  # type: ignore[arg-type]
        assert json.loads(running.request("GET", "/v1/models")[2])["data"][0]["chat"] is False


def test_a_failure_of_the_server_is_its_own(serve: Any, slow: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(ids: Any, room: int) -> Any:
        raise RuntimeError("secret /path")

    slow.steps = fail
    with serve(slow) as running:
        status, _, content = running.request("POST", TEXT, {"prompt": "A"})
        assert status == 500 and told(content)["type"] == "server_error" and b"secret" not in content
        assert "secret" in caplog.text

        def panic(ids: Any, room: int) -> Any:
            raise BaseException("as a library in Rust does")

        slow.steps = panic
        assert running.request("POST", TEXT, {"prompt": "A"})[0] == 500
        del slow.steps
        assert running.request("POST", TEXT, {"prompt": "A"})[0] == 200


def test_keys(serve: Any, model: Any) -> None:
    with serve(model, api_key="a-good-key") as running:
        assert running.client.completions.create(model="tiny", prompt="A", max_tokens=1).choices
        for key in ("Bearer wrong", "Bearer a-good-ke", "Bearer a-good-keys", "a-good-key", "Bearer \xe9", ""):
            for path in ("/v1/models", "/metrics", "/nothing"):
                status, _, content = running.request("GET", path, headers={"authorization": key})
                assert status == 401
                assert told(content)["code"] == "invalid_api_key"
        assert running.request("POST", TEXT, {"prompt": "A"})[0] == 401
        assert running.request("GET", "/")[0] == running.request("GET", "/healthz")[0] == 200
        assert running.request("GET", "/metrics", headers={"authorization": "Bearer a-good-key"})[0] == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"403"),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", b"400"),
        (b"GET /%ff%00%0a HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ],
    ids=range(8),
)
def test_hostile_bytes(running: Any, sent: bytes, status: bytes) -> None:
    with socket.create_connection(running.address, timeout=60) as link:
        with contextlib.suppress(ConnectionError):  # it may hang up before it has heard all
            link.sendall(sent)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = link.recv(100)
    assert answer.split()[1:2] == [status] or (answer == b"" and len(sent) > 100_000)
    assert running.request("GET", "/healthz")[0] == 200
