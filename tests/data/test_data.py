"""The packaged texts are the ones that were published, and hold nothing of the text models are judged on."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tailorbird import data
from tailorbird.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(data.__file__).parent
# The text itself, whatever gzip does around it.
WIKITEXT2_SHA256 = "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08"


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    """scripts/make_data.py as a module."""
    spec = importlib.util.spec_from_file_location("make_data", ROOT / "scripts" / "make_data.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_checksums() -> None:
    lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    listed = dict(line.split()[::-1] for line in lines)
    assert set(listed) == set(data.NAMES) == {path.name for path in FOLDER.glob("*.gz")}
    assert listed == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in listed}


def test_wikitext_is_the_raw_test_text() -> None:
    text = data.read_text(data.WIKITEXT2_TEST)
    assert hashlib.sha256(text.encode()).hexdigest() == WIKITEXT2_SHA256


def test_every_file_has_its_licence_stated() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in data.NAMES:
        assert re.search(rf"^\| `{re.escape(name)}` .*(CC BY-SA 3\.0|ODC-BY)", readme, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "count"),
    [(data.CALIBRATION_WIKIPEDIA, 967), (data.VALIDATION_WIKIPEDIA, 128), (data.CALIBRATION_WEB, 113)],
)
def test_documents(name: str, count: int) -> None:
    documents = data.read_documents(name)
    assert len(documents) == len(set(documents)) == count
    assert all(documents)


def test_no_overlap_with_the_evaluation_text(make_data: ModuleType) -> None:
    reason = make_data.overlaps(data.read_text(data.WIKITEXT2_TEST))
    names = [name for name in data.NAMES if name != data.WIKITEXT2_TEST]
    records = [record for name in names for record in make_data.records(data.read_text(name))]
    assert [record for record in records if reason(record)] == []


def test_overlap_is_seen(make_data: ModuleType) -> None:
    reason = make_data.overlaps(data.read_text(data.WIKITEXT2_TEST))
    copied = "A starring role in the play Herons, written by Simon Stephens, which was performed in 2001."
    assert reason({"title": "A play", "text": copied}) == "text"
    assert reason({"title": "Robert  BOULTER", "text": "An actor."}) == "title"
    assert reason({"title": "Robert", "text": "An actor."}) == ""


def test_same_text_same_bytes(make_data: ModuleType) -> None:
    assert make_data.compress("leaf") == make_data.compress("leaf")
    assert make_data.compress("leaf")[4:8] == bytes(4), "a time in the header"


def test_unknown_text_is_refused() -> None:
    with pytest.raises(DataError, match="no packaged text"):
        data.read_text("../errors.py")
    with pytest.raises(DataError, match="plain text"):
        data.read_documents(data.WIKITEXT2_TEST)
