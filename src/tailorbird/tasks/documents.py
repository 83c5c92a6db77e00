"""Documents to calibrate on: the packaged texts, the user's own file, or a data set of the Hugging Face Hub."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tailorbird import data
from tailorbird.errors import DataError, TailorbirdError, require

MAX_BYTES = 2 * 10**9
HUB_DOCUMENTS = 10_000
_HUB = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(/(?P<config>[\w.-]+))?(:(?P<split>[^:]*)(:(?P<field>[^:]+))?)?")
_KINDS = 'give a .jsonl or .jsonl.gz file whose lines have a field "text", or a .txt or .txt.gz file in UTF-8'


def documents(source: str | Path | None = None) -> list[str]:
    """The texts of a calibration source, one for each document.

    Args:
        source: None for the packaged texts (Wikipedia articles and a web sample); a ``.jsonl`` file whose lines
            have a field ``text``; a ``.txt`` file, which is one document; both may end in ``.gz``; or
            ``hub:owner/name[/config][:split[:field]]``, of which the first 10,000 documents are taken (split
            ``train`` and field ``text`` unless told).

    Raises:
        DataError: the file is missing, empty, larger than 2 GB, not UTF-8, or of the wrong kind; the message names
            the line.
        MissingExtra: a Hub data set without the library `datasets` (extra ``eval``).
    """
    if source is None:
        return data.read_documents(data.CALIBRATION_WIKIPEDIA) + data.read_documents(data.CALIBRATION_WEB)
    hub = str(source).startswith("hub:")
    found = _from_hub(str(source)) if hub else _from_file(Path(source).expanduser())
    if not any(text.strip() for text in found):
        raise DataError(f"{source} holds no text", hint=_KINDS)
    return found


def _from_file(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path} is not a file", hint="check the path; " + _KINDS)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind not in (".jsonl", ".txt"):
        raise DataError(f"{path} is not a kind of file that is read for text", hint=_KINDS)
    try:
        with _opened(path) as handle:
            return list(_lines(path, handle)) if kind == ".jsonl" else [_whole(path, handle)]
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path} can't be read: {cause}", hint="make or fetch the file again") from cause


def _opened(path: Path) -> BinaryIO | gzip.GzipFile:
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(path)
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _whole(path: Path, handle: BinaryIO | gzip.GzipFile) -> str:
    raw = handle.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise _too_large(path)
    return _text(path, 1, raw)


def _lines(path: Path, handle: BinaryIO | gzip.GzipFile) -> Iterator[str]:
    left = MAX_BYTES
    number = 0
    while line := handle.readline(left + 1):
        number += 1
        left -= len(line)
        if left < 0:
            raise _too_large(path)
        if line.strip():
            yield _field(path, number, _text(path, number, line))


def _text(path: Path, line: int, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        line += raw.count(b"\n", 0, cause.start)
        raise DataError(
            f"{path}, line {line}: not UTF-8 text (byte 0x{raw[cause.start]:02x})",
            hint=f"convert it: iconv -t UTF-8; {_KINDS}",
        ) from None
    if "\0" in text:
        line += text.count("\n", 0, text.index("\0"))
        raise DataError(f"{path}, line {line}: a NUL character, so this is no text file", hint=_KINDS)
    return text.removeprefix("\ufeff")


def _field(path: Path, line: int, text: str) -> str:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{path}, line {line}: not JSON: {cause}", hint=_KINDS) from None
    value = row.get("text") if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise DataError(f'{path}, line {line}: not an object with a string in the field "text"', hint=_KINDS)
    return value


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{path} holds more than {MAX_BYTES} bytes", hint="a few megabytes calibrate any model: cut a sample"
    )


def _from_hub(source: str) -> list[str]:
    match = _HUB.fullmatch(source)
    if not match:
        raise DataError(f"{source!r} is not a data set", hint="write hub:owner/name, hub:owner/name/config:split:field")
    datasets = require("datasets", extra="eval")
    field = match["field"] or "text"
    try:
        # Streamed, so that a sample of a large data set is all that travels.
        rows = datasets.load_dataset(match["name"], match["config"], split=match["split"] or "train", streaming=True)
        return [_hub_field(source, row, field) for row in islice(rows, HUB_DOCUMENTS)]
    except TailorbirdError:
        raise
    except Exception as cause:
        raise DataError(
            f"{source} can't be read: {cause}", hint="check the name, the config, the split and the network"
        ) from cause


def _hub_field(source: str, row: Any, field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        known = ", ".join(key for key, item in row.items() if isinstance(item, str))
        raise DataError(f"{source} has no text in the field {field!r}", hint=f"fields with text: {known or 'none'}")
    return value
