"""Files of data sets as their publishers give them, and damaged ones: an error with a hint, never a raw one."""

from __future__ import annotations

import gzip
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import DataError
from tailorbird.tasks.sequences import dataset, files, sources

EVENTS = [(user, item, 100 * user + item) for user in range(1, 6) for item in range(1, 6)]


def small(folder: Path) -> Path:
    rows = "".join(f"{user},{item},5,{time}\n" for user, item, time in EVENTS)
    (folder / "ratings.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{i},Film {i},x\n" for i in range(1, 6)))
    return folder / "ratings.csv"


def inter(folder: Path) -> Path:
    rows = "".join(f"{user}\t{item}\t5\t{time}\n" for user, item, time in EVENTS)
    (folder / "ml-100k.inter").write_text(f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{rows}")
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\n" + "".join(f"{i}\tFilm {i}\n" for i in range(1, 6))
    )
    return folder / "ml-100k.inter"


def official(folder: Path) -> Path:
    (folder / "u.data").write_text("".join(f"{user}\t{item}\t5\t{time}\n" for user, item, time in EVENTS))
    lines = "".join(f"{item}|Caf\xe9 {item} (1990)|01-Jan-1990||http://x|0|1\n" for item in range(1, 6))
    (folder / "u.item").write_bytes(lines.encode("latin-1"))
    return folder / "u.data"


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "ml-1m.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("ml-1m/ratings.dat", "".join(f"{user}::{item}::5::{time}\n" for user, item, time in EVENTS))
        out.writestr("ml-1m/movies.dat", "".join(f"{item}::Film {item}::Drama\n" for item in range(1, 6)))
    return folder / "ml-1m.zip"


def ordered(folder: Path) -> Path:
    with gzip.open(folder / "ml1m_sequences.jsonl.gz", "wt") as out:
        out.write('{"user": 1, "items": [1, 2], "valid": 3, "test": 1}\n{"user": 2, "items": [3], "test": 2}\n')
    with gzip.open(folder / "ml1m_items.csv.gz", "wt") as out:
        out.write("item,movielens_id,title,genres\n1,9,A,x\n2,8,,x\n3,7,C,x\n")
    return folder / "ml1m_sequences.jsonl.gz"


def lines(folder: Path) -> Path:
    (folder / "Toys.txt").write_text("1 1 2 3\n2 2 4\n")
    with gzip.open(folder / "amazon_toys_items.jsonl.gz", "wt") as out:
        out.write('{"item": 1, "keywords": ["red", "ball"]}\n{"item": 4, "keywords": ["kite"]}\n')
    return folder / "Toys.txt"


WRITERS: list[tuple[str, Callable[[Path], Path]]] = [
    ("ml-latest-small", small), ("ml-100k", inter), ("ml-100k", official), ("ml-1m", archive), ("ml-1m", ordered),
    ("amazon-toys", lines),
]  # fmt: skip


def test_the_official_100k(tmp_path: Path) -> None:
    """Without headers, titles in latin-1; the same events as from a table."""
    file = official(tmp_path)
    data = sources.SOURCES["ml-100k"].read(tmp_path)
    assert (data.users, data.count, len(data.items)) == (5, 5, 25) and data.titles[0] == "Caf\xe9 1 (1990)"
    assert data.digest == sources.SOURCES["ml-100k"].read(file).digest
    (tmp_path / "other").mkdir()
    inter(tmp_path / "other")
    assert data.digest == sources.SOURCES["ml-100k"].read(tmp_path / "other").digest


def test_an_official_archive_counts_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = files.md5(archive(tmp_path))
    entry = sources.SOURCES["ml-1m"]
    monkeypatch.setitem(sources.SOURCES, "ml-1m", sources.replace(entry, archives=(known,)))
    assert sources.fetch("ml-1m", tmp_path).digest == sources.fetch("ml-1m", tmp_path / "ml-1m.zip").digest
    ordered(tmp_path)  # what is read is another file now, and no archive vouches for it
    with pytest.raises(DataError, match="not the events"):
        sources.fetch("ml-1m", tmp_path)


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_damage_is_a_data_error(tmp_path: Path, name: str, write: Callable[[Path], Path]) -> None:
    file = write(tmp_path)
    read, random, refused = sources.SOURCES[name].read, np.random.default_rng(0), 0
    assert read(file).users >= 2
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            path.write_bytes(mutated(whole, random))
            try:
                read(file)
            except DataError as error:
                refused += 1
                assert error.hint
        path.write_bytes(whole)
    assert refused > 20


def mutated(whole: bytes, random: np.random.Generator) -> bytes:
    """Cut, a byte changed, a piece left out or said again."""
    start, stop = sorted(int(place) for place in random.integers(0, len(whole) + 1, 2))
    way = random.integers(4)
    if way == 0:
        return whole[:start]
    if way == 1:
        return whole[:start] + bytes([random.integers(256)]) + whole[start + 1 :]
    return whole[:start] + whole[stop:] if way == 2 else whole[:stop] + whole[start:]


@pytest.mark.parametrize(
    ("name", "write", "which", "content"),
    [
        ("ml-1m", archive, "ml-1m.zip", b"PK no archive"),
        ("ml-latest-small", small, "movies.csv", b"movieId,name\n1,x\n"),
        ("ml-latest-small", small, "movies.csv", b"movieId,title\n1," + b"x" * 200_000),
        ("ml-latest-small", small, "ratings.csv", b"userId,movieId,rating,timestamp\n1," + b"x" * 5000 + b",5,6\n"),
        ("ml-latest-small", small, "ratings.csv", b"userId,movieId,rating,timestamp\n1,1,5,1e300\n"),
        ("ml-100k", official, "u.item", b"1\n"),
        ("ml-100k", official, "u.data", b"1\t2\t3\n"),
        ("amazon-toys", lines, "Toys.txt", b"1 " + b"9" * 5000),
        ("amazon-toys", lines, "amazon_toys_items.jsonl.gz", gzip.compress(b"[" * 100_000)),
    ],
)
def test_damage_by_kind(tmp_path: Path, name: str, write: Callable[[Path], Path], which: str, content: bytes) -> None:
    file = write(tmp_path)
    (tmp_path / which).write_bytes(content)
    with pytest.raises(DataError) as caught:
        sources.SOURCES[name].read(file)
    assert caught.value.hint


def test_a_line_without_a_title(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as out:
        out.writestr("ml-1m/ratings.dat", "1::1::5::1\n")
        out.writestr("ml-1m/movies.dat", "1 without a separator\n")
    with pytest.raises(DataError, match=r"movies\.dat"):
        sources.SOURCES["ml-1m"].read(tmp_path)


def test_too_many_items_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_ITEMS", 1000)
    file = lines(tmp_path)
    (tmp_path / "amazon_toys_items.jsonl.gz").write_bytes(gzip.compress(b'{"item": 400000, "keywords": ["x"]}\n'))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="item 400000; at most 1000"):
            sources.SOURCES["amazon-toys"].read(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
