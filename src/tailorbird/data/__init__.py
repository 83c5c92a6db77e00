"""Packaged texts for calibration and evaluation without a network.

README.md in this folder states their origin and their licences.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tailorbird.errors import DataError

WIKITEXT2_TEST = "wikitext2_raw_test.txt.gz"
CALIBRATION_WIKIPEDIA = "calibration_wikipedia.jsonl.gz"
CALIBRATION_WEB = "calibration_web.jsonl.gz"
VALIDATION_WIKIPEDIA = "validation_wikipedia.jsonl.gz"
NAMES = (WIKITEXT2_TEST, CALIBRATION_WIKIPEDIA, CALIBRATION_WEB, VALIDATION_WIKIPEDIA)


def read_text(name: str) -> str:
    """The whole of a packaged file, unpacked, with its line ends untouched.

    Args:
        name: one of `NAMES`.

    Raises:
        DataError: no such packaged file.
    """
    if name not in NAMES:
        raise DataError(f"no packaged text is called {name!r}", hint=f"choose one of {', '.join(NAMES)}")
    return gzip.decompress((Path(__file__).parent / name).read_bytes()).decode("utf-8")


def read_documents(name: str) -> list[str]:
    """The texts of a packaged JSON-lines file, one for each document, in the order of the file.

    Args:
        name: one of `NAMES` that ends in ``.jsonl.gz``.

    Raises:
        DataError: no such packaged file, or it is not JSON lines.
    """
    if not name.endswith(".jsonl.gz"):
        raise DataError(f"{name!r} is plain text, not documents", hint="read it with read_text")
    # Not splitlines(): a JSON string may hold U+2028 and other line ends of Unicode.
    return [json.loads(line)["text"] for line in read_text(name).split("\n") if line]
