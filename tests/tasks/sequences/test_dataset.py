"""Sequences from logs, their files and the cache."""

from __future__ import annotations

import gzip
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import DataError
from tailorbird.tasks.sequences import files, sources, store
from tailorbird.tasks.sequences.dataset import Sequences, sequences


def test_a_log_in_any_order() -> None:
    data = sequences("log", ["b", "a", "b", "a"], ["x", "y", "z", "x"], [5, 2, 1, 2])
    assert data.users == 2 and data.count == 3
    assert [data.of(u).tolist() for u in (0, 1)] == [[2, 1], [3, 1]]  # equal times keep the order of the log
    assert data.tied == 0.25
    again = sequences("log", ["a", "b", "b", "a"], ["y", "z", "x", "x"], [2, 1, 5, 2])
    assert again.digest == data.digest


def test_core_is_a_fixed_point() -> None:
    # Without item z user c has one event left, and without user c item w has one: only a and b with x and y stay.
    log = ["ax", "ay", "bx", "by", "cz", "cw", "dw"]
    data = sequences("log", [e[0] for e in log], [e[1] for e in log], range(len(log)), core=2, titles={"x": "X"})
    assert data.users == 2 and data.titles == ("X", "y")
    with pytest.raises(DataError, match="no event is left"):
        sequences("log", ["a"], ["x"], [0], core=2)


@pytest.mark.parametrize(
    ("offsets", "items", "times", "what"),
    [
        ([0, 3], [1, 2], None, "divide"),
        ([0, 2, 1, 2], [1, 2], None, "divide"),
        ([0, 2], [0, 2], None, "between 1 and 2"),
        ([0, 2], [1, 3], None, "between 1 and 2"),
        ([0, 2], [1, 2], [5, 4], "rise"),
        ([0, 2], [1, 2], [5], "rise"),
    ],
)
def test_no_data_set(offsets: list[int], items: list[int], times: list[int] | None, what: str) -> None:
    with pytest.raises(DataError, match=what):
        Sequences("bad", np.array(offsets), np.array(items), 2, None if times is None else np.array(times))


def test_times_may_fall_from_user_to_user() -> None:
    Sequences("ok", np.array([0, 1, 1, 2]), np.array([1, 2]), 2, np.array([5, 4]))


def test_the_packaged_demo_is_the_one_it_says() -> None:
    data = sources.fetch("ml-latest-small")
    assert (data.users, data.count, len(data.items)) == (671, 9066, 100_004)
    assert data.titles[0] == "Toy Story (1995)" and "no commercial use" in data.licence
    assert 0.2 < data.tied < 0.3


def test_another_edition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n31,Dangerous Minds (1995),Drama\n")
    with pytest.raises(DataError, match="not the events"):
        sources.fetch("ml-latest-small", tmp_path)


def test_unknown_and_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set 'films'") as caught:
        sources.fetch("films")
    assert "ml-latest-small" in caught.value.hint
    with pytest.raises(DataError, match="is not at") as caught:
        sources.fetch("ml-1m", tmp_path / "nowhere")
    assert "--from" in caught.value.hint
    with pytest.raises(DataError, match="none of"):
        sources.fetch("ml-1m", tmp_path)


def test_files_of_every_kind(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "amazon_beauty_sequences.txt.gz", "wt") as out:
        out.write("1 1 2 3\n2 2 4\n")
    with gzip.open(tmp_path / "amazon_beauty_items.jsonl.gz", "wt") as out:
        out.write('{"item": 1, "keywords": ["red", "polish"]}\n{"item": 4, "keywords": ["soap"]}\n')
    data = sources.SOURCES["amazon-beauty"].read(tmp_path)
    assert data.count == 4 and data.titles == ("red polish", "item 2", "item 3", "soap")
    with gzip.open(tmp_path / "ml1m_sequences.jsonl.gz", "wt") as out:
        out.write('{"user": 1, "items": [1, 2], "valid": 3, "test": 1}\n{"user": 2, "items": [3], "test": 2}\n')
    with gzip.open(tmp_path / "ml1m_items.csv.gz", "wt") as out:
        out.write("item,movielens_id,title,genres\n1,9,A,x\n2,8,,x\n3,7,C,x\n")
    data = sources.SOURCES["ml-1m"].read(tmp_path)
    assert data.of(0).tolist() == [1, 2, 3, 1] and data.of(1).tolist() == [3, 2]
    assert (
        data.validated is not None and data.validated.tolist() == [True, False] and data.titles == ("A", "item 2", "C")
    )


def test_an_archive(tmp_path: Path) -> None:
    rows = "".join(f"{u}::{i}::5::{100 * u + i}\n" for u in range(1, 6) for i in range(1, 6))
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", rows + "9::1::5::1\n")
        archive.writestr("ml-1m/movies.dat", "1::Caf\xe9 (1990)::Drama\n".encode("latin-1"))
    data = sources.SOURCES["ml-1m"].read(tmp_path)
    assert (data.users, data.count) == (5, 5) and data.titles[0] == "Caf\xe9 (1990)"
    with pytest.raises(DataError, match="not the events"):
        sources.fetch("ml-1m", tmp_path / "ml-1m.zip")


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b broken", *(gzip.compress(c, mtime=0) for c in (b"1 a b\n", b"\xff\xfe\n"))]
)
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "amazon_toys_sequences.txt.gz").write_bytes(content)
    with pytest.raises(DataError):
        sources.fetch("amazon-toys", tmp_path)


def test_a_file_that_grows_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    (tmp_path / "amazon_toys_sequences.txt.gz").write_bytes(gzip.compress(b"1 2 3\n" * 100))
    with pytest.raises(DataError, match="more than 100"):
        sources.fetch("amazon-toys", tmp_path)


class _Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"1 1 2 3\n" * 50)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/Toys.txt"
        assert files.downloaded(url, tmp_path, "").read_bytes() == b"1 1 2 3\n" * 50
        monkeypatch.setattr(files, "MAX_BYTES", 99)
        with pytest.raises(DataError, match="larger than"):
            files.downloaded(url, tmp_path, "give --from")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(DataError, match="can't be fetched") as caught:
        files.downloaded(url, tmp_path, "give --from")
    assert caught.value.hint == "give --from"


def test_the_cache(tmp_path: Path) -> None:
    data = store.get("ml-latest-small", cache=tmp_path)
    kept = store.load("ml-latest-small", cache=tmp_path)
    assert kept.digest == data.digest and kept.titles == data.titles and kept.licence == data.licence
    words = tmp_path / "data" / "ml-latest-small" / store.WORDS
    words.write_text(words.read_text().replace(data.digest, "0" * 64))
    with pytest.raises(DataError, match="another digest"):
        store.load("ml-latest-small", cache=tmp_path)
    words.write_text('{"name": "x"}')
    with pytest.raises(DataError, match="KeyError"):
        store.load("ml-latest-small", cache=tmp_path)
    store.get("ml-latest-small", sources._packaged(), cache=tmp_path)
    assert store.load("ml-latest-small", cache=tmp_path).digest == data.digest
