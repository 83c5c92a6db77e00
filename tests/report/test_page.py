"""The page: well-formed, complete, closed to the outside, and calm about anything it is given."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import ArtifactError
from tailorbird.report import render, write_report

OPTIONAL = ["parts", "quality", "samples", "timings", "versions", "machine", "method", "budget", "digest"]
OPTIONAL += ["command", "verified", "kept_bytes"]
HOSTILE = '</title></style><script>alert(1)</script><img src=x onerror="alert(2)"> \' & \x00\x1b\u202e\ud800'


def parse(page: str) -> ElementTree.Element:
    assert page.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(page.encode().partition(b"\n")[2])


def words(page: str) -> str:
    return " ".join(" ".join(parse(page).itertext()).split())


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))


def replaced(report: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(report)
    at: Any = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def test_every_section_is_there(report: dict[str, Any]) -> None:
    found = [head.text for head in parse(render(report)).iter("h2")]
    assert found == [
        *("Where the bytes went", "Quality", "Bit map", "Error of each part", "Samples", "Time"),
        *("How it was made", "Files"),
    ]


def test_every_number_is_there(report: dict[str, Any]) -> None:
    text = words(render(report))
    quality = ["16.94", "19.12", "+12.9 %", "0.1234", "83.1 %", "16,368 tokens scored", "stride 1,023"]
    size = report["artifact"]["bytes"]
    header = [
        f"{size / 1e6:.0f} MB",
        f"{report['model']['bytes'] / 1e6:.0f} MB",
        "4.84 times smaller",
        "3.34",
    ]
    origin = [
        report["command"],
        report["digest"],
        "2.13.0",
        "AMD EPYC 7B13",
        "268,098,176",
        "arXiv 2405.14917",
    ]
    for expected in [*quality, *header, *origin, "budget 3bits", "✓ Verified", "group_size = 64"]:
        assert expected in text
    for count in report["artifact"]["files"].values():
        assert f"{count:,}" in text
    for part in report["parts"]:
        assert part["name"] in text


def test_passes_of_distillation(report: dict[str, Any]) -> None:
    shown = words(render(report))
    assert "as fitted 0.4121" in shown and "pass 1 0.3307 kept" in shown and "pass 3 0.3355" in shown
    assert shown.count("kept") == words(render(report | {"divergence": []})).count("kept") + 1
    assert "Distillation" in words(render(report | {"quality": None}))
    assert "Distillation" not in words(render(report | {"divergence": []}))


def test_exact_bytes_stand_in_titles(report: dict[str, Any]) -> None:
    page = render(report)
    for part in report["parts"]:
        assert f'title="{part["bytes"]:,} bytes"' in page
    assert f'title="{report["artifact"]["bytes"]:,} bytes"' in page


def test_pieces_add_up_to_the_artifact(report: dict[str, Any]) -> None:
    tables = [table for table in parse(render(report)).iter("table") if table.get("class") == "bars"]
    for table in tables[:2]:
        sizes = [
            int(span.get("title", "").split()[0].replace(",", ""))
            for span in table.iter("span")
            if span.get("title", "").endswith(" bytes")
        ]
        whole, pieces = sizes[-1], sizes[:-1]
        assert whole == report["artifact"]["bytes"]
        assert sum(pieces) == whole


def test_bit_map_has_a_cell_for_every_part(report: dict[str, Any]) -> None:
    report["parts"][3]["bits"] = 5.25
    page = render(report)
    titles = [title.text or "" for title in parse(page).iter("title")]
    for part in report["parts"]:
        assert sum(title.startswith(f"{part['name']}\nshape") for title in titles) == 1
    assert ">5.25</text>" in page
    assert any("groups by bits: 1 at 2, 8 at 3, 1 at 4" in title for title in titles)


def test_pictures_have_names_and_descriptions(report: dict[str, Any]) -> None:
    pictures = [svg for svg in parse(render(report)).iter("svg") if svg.get("aria-hidden") != "true"]
    assert len(pictures) >= 5
    for svg in pictures:
        assert svg.get("role") == "img" and svg.get("aria-label")
        assert svg[0].tag == "title" and svg[1].tag == "desc" and svg[1].text


def test_nothing_comes_from_elsewhere(report: dict[str, Any]) -> None:
    page = render(report)
    assert not re.search(r"https?:|//\w|@import|url\(|<script|<link|<img|<iframe|\s(src|href|on\w+)=", page)
    assert "default-src 'none'" in page.replace("&#x27;", "'")


@pytest.mark.parametrize("key", OPTIONAL)
@pytest.mark.parametrize("drop", [True, False], ids=["missing", "null"])
def test_sections_may_be_missing(report: dict[str, Any], key: str, drop: bool) -> None:
    report = {name: value for name, value in report.items() if name != key}
    assert words(render(report if drop else report | {key: None}))


def test_least_report(report: dict[str, Any]) -> None:
    least = {"model": {"source": "tiny"}, "artifact": {"bytes": 1000}}
    heads = [head.text for head in parse(render(least)).iter("h2")]
    assert heads == ["Where the bytes went", "How it was made"]
    for key in least:
        with pytest.raises(ArtifactError, match=key):
            render({name: value for name, value in least.items() if name != key})


def test_verified_is_told_in_words(report: dict[str, Any]) -> None:
    assert "✗ Not verified" in words(render(report | {"verified": False}))
    assert "erified" not in words(render(report | {"verified": None}))


def test_hostile_text_is_escaped_everywhere(report: dict[str, Any]) -> None:
    for path in leaves(report):
        if path and not isinstance(value := _at(report, path), (dict, list)) and len(path) < 5:
            _at(report, path[:-1])[path[-1]] = HOSTILE if isinstance(value, str) else value
    report["artifact"]["files"] = {HOSTILE: 5}
    report["timings"] = {HOSTILE: 5.0}
    report["quality"]["compressed"][HOSTILE] = 1.0
    page = render(report)
    root = parse(page)
    assert not {"script", "img"} & {element.tag for element in root.iter()}
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
    assert "<script" not in page and "&lt;script" in page
    assert not set("\x00\x1b\u202e\ud800") & set(page)


def _at(report: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        report = report[key]
    return report


STRANGE: list[Any] = [
    None,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    1e308,
    5e-324,
    10**400,
    True,
    "",
    "12",
    HOSTILE,
]
STRANGE += ["é" * 3000, [], {}, [None], {"a": None}, [[1]], "9999999999"]


@settings(max_examples=120)
@given(data=st.data())
def test_strange_values_do_no_harm(data: st.DataObject, make_report: Callable[[int], dict[str, Any]]) -> None:
    report = make_report(2)
    for _ in range(3):
        path = data.draw(st.sampled_from([path for path in leaves(report) if path]))
        if path[0] not in ("model", "artifact") or len(path) > 1:
            report = replaced(report, path, data.draw(st.sampled_from(STRANGE)))
    assert words(render(report))


def test_any_depth(other_depth: dict[str, Any]) -> None:
    page = render(other_depth)
    blocks = (len(other_depth["parts"]) - 1) // 7
    text = words(page)
    assert f"All {len(other_depth['parts'])} parts" in text
    assert f"Bits of the parts of blocks 0 to {min(blocks, 40) - 1}" in text


def test_errors_that_are_not_known_leave_gaps(report: dict[str, Any]) -> None:
    for part in report["parts"]:
        if part["block"] in (3, 4) and "q_proj" in part["name"]:
            part["error"] = math.nan if part["block"] == 3 else None
    page = render(report)
    assert "16 of 18" in words(page)
    assert "q, block 2: " in page and "q, block 3: " not in page
    assert "nan" not in page.lower().replace("dominant", "")


def test_no_errors_at_all(report: dict[str, Any]) -> None:
    for part in report["parts"]:
        part["error"] = None
    heads = [head.text for head in parse(render(report)).iter("h2")]
    assert "Parts" in heads and "Error of each part" not in heads


def test_experts_share_a_cell(report: dict[str, Any]) -> None:
    expert = {"role": "expert", "block": 0, "shape": [64, 64], "bits": 2, "bytes": 1024}
    report["parts"] = [
        expert | {"name": f"model.layers.0.mlp.experts.{index}.up_proj", "bits": 2 + index % 2} for index in range(8)
    ]
    assert "8 parts like model.layers.0.mlp.experts.0.up_proj" in render(report)


def test_written_files(tmp_path: Path, report: dict[str, Any]) -> None:
    report["parts"][0]["error"] = math.nan
    report["samples"][0]["compressed"] = "lone \ud800 surrogate"
    page = write_report(tmp_path, report)
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8") == render(report)
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert data["parts"][0]["error"] is None
    assert data["artifact"] == report["artifact"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_written_report_renders_to_the_same_page(tmp_path: Path, report: dict[str, Any]) -> None:
    page = write_report(tmp_path, report).read_text(encoding="utf-8")
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert render(data) == page
