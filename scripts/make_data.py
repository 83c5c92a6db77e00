"""Make the texts packaged in src/tailorbird/data from their source files.

    python scripts/make_data.py SOURCE_FOLDER

SOURCE_FOLDER holds wikitext2_raw_test.txt.gz, wikipedia_en_sample.jsonl.gz and c4_en_sample.jsonl.gz; their
checksums are checked first. A calibration or validation text never has the title of an article of the
WikiText-2 test, nor shares 13 words in a row with it: a model must not be fitted to the text it is judged on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

Record = dict[str, str]

DATA = Path(__file__).resolve().parent.parent / "src" / "tailorbird" / "data"
SOURCES = {
    "wikitext2_raw_test.txt.gz": "aeb24039f80f7056",
    "wikipedia_en_sample.jsonl.gz": "4f68d37fa22e2eb0",
    "c4_en_sample.jsonl.gz": "db096dc7b23f7f04",
}
NGRAM = 13
VALIDATION_PER_MILLE = 120


def words(text: str) -> list[str]:
    """Lower-case words without punctuation, so that WikiText's ` @-@ ` and a plain hyphen read the same."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Every run of NGRAM words."""
    found = words(text)
    return {tuple(found[i : i + NGRAM]) for i in range(len(found) - NGRAM + 1)}


def titles(wikitext: str) -> set[tuple[str, ...]]:
    """The article titles of a WikiText file: its headings of the first level."""
    return {tuple(words(title)) for title in re.findall(r"^ = ([^=].*[^=]) = ?$", wikitext, re.MULTILINE)}


def overlaps(wikitext: str) -> Callable[[Record], str]:
    """A function that says why a record overlaps `wikitext`, or an empty string."""
    test_titles, test_ngrams = titles(wikitext), ngrams(wikitext)

    def reason(record: Record) -> str:
        if tuple(words(record.get("title", ""))) in test_titles:
            return "title"
        return "" if test_ngrams.isdisjoint(ngrams(record["text"])) else "text"

    return reason


def is_validation(record: Record) -> bool:
    """Whether an article belongs to the validation part: decided by its id alone."""
    return int(hashlib.sha256(record["id"].encode()).hexdigest(), 16) % 1000 < VALIDATION_PER_MILLE


def read(folder: Path, name: str) -> str:
    """The text of a source file, after checking that it is the right one."""
    data = (folder / name).read_bytes()
    if not hashlib.sha256(data).hexdigest().startswith(SOURCES[name]):
        raise SystemExit(f"{folder / name} is not the file these texts are made from")
    return gzip.decompress(data).decode("utf-8")


def compress(text: str) -> bytes:
    """The same text gives the same bytes: no time and no name in the header."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as handle:
        handle.write(text.encode("utf-8"))
    return buffer.getvalue()


def records(text: str) -> list[Record]:
    """The records of a JSON-lines text, repeated lines once."""
    return [json.loads(line) for line in dict.fromkeys(text.split("\n")) if line]


def lines(chosen: list[Record]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in chosen)


def main() -> None:
    """Write the packaged texts and SHA256SUMS, and print what was left out."""
    parser = argparse.ArgumentParser(description="Make the texts packaged in src/tailorbird/data.")
    parser.add_argument("folder", type=Path, help="where the three source files are")
    folder: Path = parser.parse_args().folder
    wikitext = read(folder, "wikitext2_raw_test.txt.gz")
    reason = overlaps(wikitext)
    articles = records(read(folder, "wikipedia_en_sample.jsonl.gz"))
    pages = records(read(folder, "c4_en_sample.jsonl.gz"))
    clean = [article for article in articles if not reason(article)]
    files = {
        "wikitext2_raw_test.txt.gz": (folder / "wikitext2_raw_test.txt.gz").read_bytes(),
        "calibration_wikipedia.jsonl.gz": compress(lines([a for a in clean if not is_validation(a)])),
        "validation_wikipedia.jsonl.gz": compress(lines([a for a in clean if is_validation(a)])),
        "calibration_web.jsonl.gz": compress(lines([page for page in pages if not reason(page)])),
    }
    for record in articles + pages:
        if why := reason(record):
            print(f"left out, same {why} as WikiText-2 test: {record.get('title', record['text'][:60])!r}")
    for name, data in files.items():
        (DATA / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    (DATA / "SHA256SUMS").write_text(sums, encoding="utf-8")


if __name__ == "__main__":
    main()
