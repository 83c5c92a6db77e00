"""The cache holds whole entries only, whoever is killed or runs at the same time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tailorbird.checkpoint.cache import cache_folder, cached, file_key
from tailorbird.errors import ResourceError


def write(folder: Path) -> None:
    (folder / "x").write_text("whole")


def test_builds_once(tmp_path: Path) -> None:
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        write(folder)

    for _ in range(2):
        assert (cached(tmp_path / "new" / "root", "key", build) / "x").read_text() == "whole"
    assert len(calls) == 1 and os.listdir(tmp_path / "new" / "root") == ["key"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "key", fail)
    assert os.listdir(tmp_path) == []


def test_full_disk(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ResourceError, match="no space left"):
        cached(tmp_path, "key", fail)


def test_the_faster_of_two_wins(tmp_path: Path) -> None:
    def slow(folder: Path) -> None:
        (folder / "x").write_text("slow")
        cached(tmp_path, "key", write)

    assert (cached(tmp_path, "key", slow) / "x").read_text() == "whole"
    assert os.listdir(tmp_path) == ["key"]


def test_killed_in_the_middle(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from tailorbird.checkpoint.cache import cached\n"
        "def build(folder):\n"
        "    (folder / 'x').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "cached(Path(sys.argv[1]), 'key', build)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=False)
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".partial"
    assert (cached(tmp_path, "key", write) / "x").read_text() == "whole"
    assert left.is_dir()  # it might have belonged to a living process
    old = time.time() - 2 * 24 * 3600
    os.utime(left, (old, old))
    cached(tmp_path, "other", write)
    assert sorted(os.listdir(tmp_path)) == ["key", "other"]


def test_key_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").write_bytes(b"x" * 100)
    (tmp_path / "c").write_bytes(b"x" * 99 + b"y")
    key = file_key(tmp_path / "a", 1)
    assert file_key(tmp_path / "b", 1) == key
    assert key not in (file_key(tmp_path / "c", 1), file_key(tmp_path / "a", 2))


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("TAILORBIRD_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "tailorbird"


def test_key_sees_a_change_in_the_middle(tmp_path: Path) -> None:
    """Two fine-tunings of one model may share their first and last tensors."""
    content = bytearray(6 * 2**20 + 5)
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_bytes(content)
    content[5 * 2**20 : 5 * 2**20 + 2**17] = b"x" * 2**17
    paths[1].write_bytes(content)
    assert file_key(paths[0], 1) != file_key(paths[1], 1)
