"""Files are whole or not there, bounded, and inside their folder."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import ArtifactError, DataError, ResourceError, UsageError
from tailorbird.files import (
    atomic_path,
    confined,
    make_folder,
    read_json,
    remove_leftovers,
    sha256,
    write_atomic,
    write_json,
)


def test_written_whole_with_its_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.bin", b"one")
    write_atomic(tmp_path / "a" / "b" / "c.bin", b"two")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.bin"]
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"two"


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "é": [2]})
    write_json(tmp_path / "b", {"é": [2], "x": 1})
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    assert read_json(tmp_path / "a") == {"x": 1, "é": [2]}


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as aside:
        aside.write_bytes(b"half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(code, os.strerror(code))

    write_atomic(tmp_path / "a", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(ResourceError, match=r"no space left while writing .*a: ") as caught:
            write_atomic(tmp_path / "a", b"new")
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(ResourceError, match="folder"):
            make_folder(tmp_path / "folder")
    assert "--resume" in caught.value.hint
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="broken"):
        write_atomic(tmp_path / "a", b"new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="can't be made"):
        make_folder(tmp_path / "file" / "folder")


def test_leftovers_of_a_killed_process_go(tmp_path: Path) -> None:
    (tmp_path / ".a.json.123.partial").write_bytes(b"half")
    (tmp_path / "a.partial").write_bytes(b"mine")
    (tmp_path / ".folder.partial").mkdir()
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".folder.partial", "a.partial"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b"nonsense", b'{"a": ' + b"1" * 10_000 + b"}", b"\x80\x02cos\n."]
)
def test_damaged_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json"):
        read_json(tmp_path / "a.json", error=DataError)


def test_json_is_bounded_and_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps("x" * 100).encode())
    assert read_json(tmp_path / "a.json", limit=102) == "x" * 100
    with pytest.raises(ArtifactError, match="102 bytes; at most 101"):
        read_json(tmp_path / "a.json", limit=101)
    with pytest.raises(ArtifactError, match="missing"):
        read_json(tmp_path / "b.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "zero.json", "folder.json"):
        with pytest.raises(ArtifactError, match="not a plain file"):
            read_json(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "..", "a/../../b", "a\\b", "a\0b", "\ud800", "x" * 5000, "link", "folder/file", "circle"],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"")
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "outside" / "file")
    (inside / "folder").symlink_to(tmp_path / "outside")
    (inside / "circle").symlink_to(inside / "circle")
    with pytest.raises(ArtifactError):
        confined(inside, name)


def test_names_inside_are_taken(tmp_path: Path) -> None:
    assert confined(tmp_path, "a.json") == tmp_path / "a.json"
    assert confined(tmp_path, "a/b..c") == tmp_path / "a" / "b..c"
