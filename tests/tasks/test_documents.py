from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tailorbird.errors import DataError
from tailorbird.tasks import documents as module
from tailorbird.tasks.text import documents


def rows(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def test_packaged_texts_are_mixed_of_two_sources() -> None:
    found = documents(None)
    assert len(found) == 967 + 113
    assert all(isinstance(text, str) and text for text in found)


def test_files_of_the_right_kind(tmp_path: Path) -> None:
    texts = ["one\u2028line", "zwei é", ""]
    (tmp_path / "a.jsonl").write_bytes(rows(*texts) + b"\n\n")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows(*texts)))
    (tmp_path / "b.txt").write_bytes("\ufeffa\r\nb\n".encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"a\r\nb\n"))
    assert documents(tmp_path / "a.jsonl") == documents(str(tmp_path / "a.jsonl.gz")) == texts
    assert documents(tmp_path / "b.txt") == documents(tmp_path / "b.txt.gz") == ["a\r\nb\n"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", rows("ok") + b"{not json}\n", "line 2: not JSON"),
        ("a.jsonl", rows("ok") + b'{"body": "x"}\n', 'line 2: not an object with a string in the field "text"'),
        ("a.jsonl", b'{"text": 3}\n', "line 1: not an object"),
        ("a.jsonl", b'["text"]\n', "line 1: not an object"),
        ("a.jsonl", b"[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", rows("ok", "ok") + b'{"text": "\xff"}\n', "line 3: not UTF-8"),
        ("a.txt", b"a\nb\n\xff\xfe", "line 3: not UTF-8"),
        ("a.txt", b"PK\x03\x04\n\0\0", "line 2: a NUL character"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b" \n\n", "holds no text"),
        ("a.jsonl", b"", "holds no text"),
        ("a.jsonl.gz", b"no gzip at all", "can't be read"),
        ("a.jsonl.gz", gzip.compress(rows("x" * 1000), mtime=0)[:-20], "can't be read"),
        ("a.parquet", b"PAR1", "not a kind of file"),
        ("a.json", b'{"text": "x"}', "not a kind of file"),
        ("a", b"text", "not a kind of file"),
    ],
)
def test_files_of_the_wrong_kind(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        documents(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_missing_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(DataError, match="is not a file"):
            documents(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.gz"])
def test_sizes_are_bounded_packed_or_not(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 500)
    content = rows("x" * 600)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match="more than 500 bytes"):
        documents(tmp_path / name)


class Hub(SimpleNamespace):
    """A stand-in for the library `datasets`."""

    def load_dataset(self, *args: Any, **kwargs: Any) -> Any:
        self.asked = (*args, kwargs)
        if self.error:
            raise self.error
        return iter(self.rows)


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hub:owner/name", ("owner/name", None, {"split": "train", "streaming": True})),
        ("hub:owner/name:test:text", ("owner/name", None, {"split": "test", "streaming": True})),
        ("hub:owner/name/raw-v1:", ("owner/name", "raw-v1", {"split": "train", "streaming": True})),
    ],
)
def test_hub_data_sets(source: str, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(rows=[{"text": "a"}, {"text": "b"}] * 10_000, error=None)
    monkeypatch.setitem(sys.modules, "datasets", hub)  # type: ignore[arg-type]
    assert documents(source) == ["a", "b"] * 5_000
    assert hub.asked == asked


def test_hub_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub(rows=[{"body": "a", "id": 1}], error=None))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no text in the field 'text'") as caught:
        documents("hub:owner/name")
    assert "body" in caught.value.hint
    assert documents("hub:owner/name::body") == ["a"]
    monkeypatch.setitem(sys.modules, "datasets", Hub(rows=[], error=ConnectionError("no network")))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no network"):
        documents("hub:owner/name")
    with pytest.raises(DataError, match="not a data set"):
        documents("hub:nonsense")
