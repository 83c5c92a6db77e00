"""Budgets on the command line: allocators, curves and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

SMALL = ("--samples", 8, "--length", 32, "--data")


def test_pareto_draws_and_its_plans_apply(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    out, plans = tmp_path / "curve-3.5", tmp_path / "plans"
    args = ("--method", "rtn", "--points", 5, "--measure", 2, "--plans", plans, *SMALL, text, "--json")
    done = call("pareto", tiny, "--out", out, *args)
    assert done.code == 0, done.err
    points = done.json["points"]
    assert [point["bytes"] for point in points] == sorted(point["bytes"] for point in points)
    predicted = [point["predicted"] for point in points]
    assert predicted == sorted(predicted, reverse=True) and len(points) == 5
    assert [point["measured"] is not None for point in points] == [True, False, False, False, True]
    assert ElementTree.parse(tmp_path / "curve-3.5.svg").getroot().tag.endswith("svg")
    assert len(list(plans.iterdir())) == 5
    made = call(
        "compress", tiny, "--plan", sorted(plans.iterdir())[2], "--out", tmp_path / "a", "--no-evaluate", "--json"
    )
    assert made.code == 0 and made.json["bytes"] <= points[2]["bytes"]
    again = call("pareto", tiny, "--out", out, *args)
    assert again.code == 2 and "there already" in again.json["error"]


def test_pareto_shows_a_table(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    done = call("pareto", tiny, "--out", tmp_path / "c", "--method", "rtn", "--points", 2, *SMALL, text)
    assert done.code == 0 and "predicted KL" in done.out and "c.svg" in done.out


def test_compare_lays_side_by_side(call: Any, tiny: Path, artifact: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(call("compress", tiny, "--budget", "4bits", "--dry-run", "--json").out)
    done = call("compare", artifact, plan, "--parts", "--json")
    assert done.code == 0, done.err
    first, second = done.json["items"]
    assert first["bytes"] > first["packed_bytes"] > 0 and second["bytes"] > second["packed_bytes"] > 0
    assert set(first["roles"]) == set(second["roles"])
    assert first["parts"].keys() == second["parts"].keys() and first["milliseconds"] is None
    shown = call("compare", artifact, plan, "--parts", "--bench")
    assert "bits of attention" in shown.out and "milliseconds a token" in shown.out
    assert "model.layers.0.mlp.up_proj" in shown.out


def test_compare_says_of_a_bare_plan_what_it_knows(call: Any, tiny: Path, tmp_path: Path) -> None:
    plan, bare = tmp_path / "plan.json", tmp_path / "bare.json"
    done = call("compress", tiny, "--budget", "4bits", "--dry-run", "--json")
    plan.write_text(done.out)
    bare.write_text(json.dumps(done.json["plan"]))
    known, unknown = call("compare", plan, bare, "--bench", "--json").json["items"]
    assert known["bytes"] == done.json["bytes"] and known["bits"] == done.json["bits"] and known["milliseconds"] > 0
    assert unknown["bytes"] is None and unknown["bits"] is None and unknown["milliseconds"] is None
    assert unknown["packed_bytes"] == known["packed_bytes"]
    [named] = call("compare", bare, "--bench", "--model", tiny, "--json").json["items"]
    assert named["milliseconds"] > 0


@pytest.mark.parametrize("what", ["nothing", "folder"])
def test_compare_refuses_what_is_neither(call: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    done = call("compare", path)
    assert done.code == 2 and "neither" in done.err


@pytest.mark.parametrize("allocator", ["measured", "ohq"])
def test_allocators_and_their_recipes(call: Any, tiny: Path, text: Path, tmp_path: Path, allocator: str) -> None:
    args = ("--method", "rtn", "--budget", "4bits", "--allocate", allocator, *SMALL, text, "--no-evaluate", "--json")
    done = call("compress", tiny, "--out", tmp_path / "a", *args)
    assert done.code == 0, done.err
    assert 3.88 < done.json["bits"] <= 4
    again = call(
        "compress", "--recipe", tmp_path / "a" / "recipe.toml", "--out", tmp_path / "b", "--no-evaluate", "--json"
    )
    assert again.code == 0 and again.json["digest"] == done.json["digest"]


def test_dry_run_shows_the_shared_out_plan(call: Any, tiny: Path, text: Path) -> None:
    args = ("--method", "rtn", "--budget", "4bits", "--dry-run", "--json", *SMALL, text)
    plain, shared = (call("compress", tiny, *args, "--allocate", name).json for name in ("uniform", "measured"))
    assert plain["plan"] != shared["plan"]
    assert shared["estimate"]["seconds"]["score"] > plain["estimate"]["seconds"]["score"] == 0


def test_a_cache_of_another_kind_is_refused(call: Any, tiny: Path) -> None:
    assert call("compress", tiny, "--dry-run", "--context", 8, "--cache", "fp8").code == 2
    assert call("compress", tiny, "--dry-run", "--context", 8, "--cache", "int8").code == 0


def test_dry_run_shows_keys_and_values(call: Any, tiny: Path) -> None:
    args = ("compress", tiny, "--method", "rtn", "--dry-run", "--context", 32)
    found = call(*args, "--budget", "90kB", "--json").json
    assert found["cache_bytes"] > 0 and not found["notes"]
    assert found["bytes"] + found["cache_bytes"] <= 90_000
    assert (
        f"{found['cache_bytes']:,} bytes of keys and values of 32 tokens as bf16" in call(*args, "--budget", "90kB").out
    )
    idle = call(*args, "--budget", "4bits")
    assert "note: --context counts in a budget in bytes" in idle.err
    written = call(
        *args[:4], "--budget", "4bits", "--context", 8, "--out", tiny.parent / "idle", "--no-evaluate", "--json"
    )
    assert any("--context counts" in note for note in written.json["notes"])


def test_a_profile_is_for_ohq_alone(call: Any, tiny: Path, tmp_path: Path) -> None:
    done = call("compress", tiny, "--dry-run", "--allocate", "measured", "--profile", tmp_path / "p.json")
    assert done.code == 2 and "what ohq weighs" in done.err
