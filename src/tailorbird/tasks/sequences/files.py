"""Reading the files data sets come in. What is read is not trusted: sizes are bounded, columns checked."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import struct
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataError
from tailorbird.tasks.sequences import dataset
from tailorbird.tasks.sequences.dataset import Sequences, sequences

MAX_BYTES = 2**31
TIMEOUT = 30  # seconds
Row = Mapping[str, str]
_ODD = (KeyError, TypeError, ValueError, OverflowError, RecursionError)  # of JSON that is not what it should be


def named(path: Path, *names: str) -> Path:
    """The file itself, or the first of `names` in a folder.

    Raises:
        DataError: none is there.
    """
    if path.is_file():
        return path
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise DataError(f"{path} has none of {', '.join(names)}", hint="give the folder that holds it, or the file")
    return found


def text(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a file, unpacked if its name ends in .gz.

    Raises:
        DataError: it can't be unpacked, is no text, or is larger than `MAX_BYTES`.
    """
    size = 0
    try:
        with gzip.open(path, "rt", encoding=encoding) if path.suffix == ".gz" else path.open(encoding=encoding) as file:
            for line in iter(lambda: file.readline(MAX_BYTES), ""):
                size += len(line)
                if size > MAX_BYTES:
                    raise DataError(f"{path} holds more than {MAX_BYTES} characters", hint="is it the right file?")
                yield line.rstrip("\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as cause:
        raise DataError(f"{path} can't be read: {cause}", hint="fetch it again") from cause


def table(path: Path, columns: tuple[str, ...], separator: str = ",") -> Iterator[Row]:
    """The rows of a table with a header, by column.

    Raises:
        DataError: the header or a row lacks one of `columns`, or it is no table.
    """
    try:
        for row in csv.DictReader(text(path), delimiter=separator):
            if any(row.get(column) is None for column in columns):
                raise DataError(f"{path}: a row without {', '.join(columns)}", hint="is it the right file?")
            yield row
    except csv.Error as cause:
        raise DataError(f"{path} is no table: {cause}", hint="fetch it again") from cause


def fields(name: str, rows: Iterable[str], separator: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """Lines without a header, by column; what stands behind the named ones is left out.

    Raises:
        DataError: a line has fewer fields.
    """
    for row in rows:
        values = row.split(separator)
        if len(values) < len(columns):
            raise DataError(f"{name}: a line without {', '.join(columns)}: {row[:80]!r}", hint="fetch it again")
        yield dict(zip(columns, values, strict=False))


def members(path: Path, *names: str) -> list[bytes]:
    """Members of an archive.

    Raises:
        DataError: it is none, or damaged; a member is missing, locked, or larger than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [_bounded(archive, name) for name in names]
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error) as cause:
        raise DataError(f"{path} can't be unpacked: {cause}", hint="fetch it again") from cause


def _bounded(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise DataError(f"{archive.filename} has no {name}", hint="is it the right archive?") from None
    if info.file_size > MAX_BYTES:
        raise DataError(f"{name} is said to take {info.file_size} bytes", hint="is it the right archive?")
    with archive.open(info) as member:
        return member.read(MAX_BYTES)


def downloaded(url: str, folder: Path, hint: str) -> Path:
    """Fetch a file into a folder.

    Raises:
        DataError: it can't be had, or is larger than `MAX_BYTES`.
    """
    target, size = folder / url.rpartition("/")[2], 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, target.open("wb") as out:
            while piece := answer.read(2**20):
                size += len(piece)
                if size > MAX_BYTES:
                    raise DataError(f"{url} is larger than {MAX_BYTES} bytes", hint=hint)
                out.write(piece)
    except OSError as cause:
        raise DataError(f"{url} can't be fetched: {cause}", hint=hint) from cause
    return target


def md5(path: Path) -> str:
    """MD5 of a file: not against attackers, but what publishers of data state."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def ratings(
    name: str, rows: Iterable[Row], columns: tuple[str, str, str], titles: Mapping[str, str], core: int = 0
) -> Sequences:
    """Sequences from rows with columns for user, item and time; a rating is an event, whatever its value.

    Raises:
        DataError: a column is missing, or a time is no number.
    """
    try:
        events = [(row[columns[0]], row[columns[1]], int(float(row[columns[2]]))) for row in rows]
        users, items, times = zip(*events, strict=True) if events else ((), (), ())
        return sequences(name, users, items, times, core=core, titles=dict(titles))
    except (KeyError, TypeError, ValueError, OverflowError) as cause:
        raise DataError(f"data set {name!r}: a row without {columns}: {cause}", hint="fetch it again") from cause


def ordered(name: str, path: Path, items: Path) -> Sequences:
    """JSON lines of users with fields ``items``, ``valid`` (of some) and ``test``; a table of items with titles."""
    runs, flags = [], []
    try:
        for line in text(path):
            row = json.loads(line)
            runs.append([*row["items"], *([row["valid"]] if "valid" in row else []), row["test"]])
            flags.append("valid" in row)
        titles = {int(row["item"]): row["title"] for row in table(items, ("item", "title"))}
        return _joined(name, runs, titles, np.array(flags))
    except _ODD as cause:
        raise DataError(f"{path}: {type(cause).__name__}: {cause}", hint="fetch it again") from cause


def lines(name: str, path: Path, items: Path | None) -> Sequences:
    """Lines of a user and the user's items in order; JSON lines of items with fields item and keywords, if any."""
    try:
        runs = [[int(number) for number in line.split()[1:]] for line in text(path)]
        rows = [json.loads(line) for line in text(items)] if items else []
        return _joined(name, runs, {row["item"]: " ".join(row["keywords"]) for row in rows}, None)
    except _ODD as cause:
        raise DataError(f"{path}: {type(cause).__name__}: {cause}", hint="fetch it again") from cause


def _joined(
    name: str, runs: list[list[int]], titles: Mapping[int, str], validated: npt.NDArray[np.bool_] | None
) -> Sequences:
    offsets = np.cumsum([0, *(len(run) for run in runs)]).astype(np.int64)
    items = np.array([item for run in runs for item in run], np.int64)
    count = max(int(items.max(initial=0)), max(titles, default=0))
    if count > dataset.MAX_ITEMS:  # before a text is made for each
        raise DataError(f"data set {name!r}: item {count}; at most {dataset.MAX_ITEMS}", hint="fetch it again")
    texts = tuple(titles.get(i) or f"item {i}" for i in range(1, count + 1)) if titles else ()
    return Sequences(name, offsets, items, count, None, texts, validated)
