"""Every command on a tiny model: what it prints where, and how it ends."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import tailorbird
from tailorbird.cli import preflight
from tailorbird.cli.tables import parts_table
from tailorbird.errors import DataError
from tailorbird.files import read_json
from tailorbird.formats import LevelSpec, PlaneSpec, RowSpec, SumSpec, Term, TrellisSpec
from tailorbird.methods import methods
from tailorbird.runtime import profile


def test_compress_evaluates_and_reports(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    done = call(
        *("compress", tiny, "--method", "slim-llm", "--budget", "6bits", "--budget", "100kB", "--out", out, "--json"),
        *("--data", text, "--samples", 8, "--length", 32, "--seed", 3, "--set", "search=4", "--eval-tokens", 126),
    )
    assert done.code == 0, done.err
    found = done.json
    assert found["verified"] and found["bits"] <= 6 and found["bytes"] <= 100_000
    assert found["bytes"] == sum((out / name).stat().st_size for name in loaded(out))
    assert found["method"]["options"]["search"] == 4
    assert found["quality"]["tokens"] == 126
    assert found["quality"]["compressed"]["kl"] > 0
    assert found["quality"]["original"]["perplexity"] > 1
    assert found["claimed"] is None
    assert set(found["samples"][0]) == {"prompt", "original", "compressed"}
    assert {"fit", "measure", "pack", "verify", "evaluate", "samples"} <= set(found["timings"])
    report = read_json(out / "report.json")
    assert report["command"].startswith(f"tailorbird compress {tiny}")
    assert {part["name"] for part in report["parts"]} == set(tailorbird.Artifact.open(out).plan.specs)
    assert all(part["error"] > 0 and part["seconds"] > 0 for part in report["parts"])
    assert all(part["bytes"] == sum(part["bytes_by"].values()) for part in report["parts"])
    assert "Verified" in (out / "report.html").read_text(encoding="utf-8")
    assert "[4/4]" in done.err


def loaded(folder: Path) -> list[str]:
    """The files the runtime loads."""
    return [*read_json(folder / "manifest.json")["files"], "manifest.json"]


def test_compress_says_what_it_takes_and_needs_room_for_it(
    call: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("compress", tiny, "--method", "rtn", "--out", tmp_path / "new" / "small", "--no-evaluate")
    usage = shutil.disk_usage(tmp_path)
    asked = []

    def full(path: Path) -> Any:
        asked.append(path)
        return usage._replace(free=1000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    done = call(*args)
    assert done.code == 8 and "1,000" not in done.out and "0 MB free" in done.err and "--out" in done.err
    assert asked == [tmp_path] and list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(preflight, "_memory", lambda: 1)
    done = call(*args)
    assert done.code == 0 and re.search(r"about \d+ s .*of memory and .*of disk", done.err)
    assert "note: this machine has 0 MB of memory" in done.err


def test_compress_prints_a_table(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    done = call("compress", tiny, "--method", "rtn", "--out", tmp_path / "small", "--eval-tokens", 63)
    assert done.code == 0, done.err
    for word in ("original", "compressed", "bytes", "honest bits", "perplexity", "report.html"):
        assert word in done.out


def test_what_a_paper_claims_stands_beside_what_is_stored(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    args = ("compress", tiny, "--method", "billm", "--budget", "7bits", "--out", tmp_path / "small", "--no-evaluate")
    args += ("--data", text, "--samples", 4, "--length", 32)
    done = call(*args)
    assert done.code == 0, done.err
    parts = [part for part in read_json(tmp_path / "small" / "report.json")["parts"] if part["block"] is not None]
    weights = sum(part["shape"][0] * part["shape"][1] for part in parts)
    honest = 8 * sum(part["bytes"] for part in parts) / weights
    row = re.search(r"bits of (\d+) parts as the paper counts\D+([\d.]+) \(honest: ([\d.]+)\)", done.out)
    assert row is not None and int(row[1]) == len(parts) and row[3] == f"{honest:.4f}"
    assert 1 <= float(row[2]) < 2 < honest  # two planes and their scales
    found = call(*args, "--resume", "--json").json["claimed"]
    assert found == {"parts": len(parts), "paper_bits": pytest.approx(float(row[2]), abs=1e-4), "bits": honest}


def test_dry_run_bounds_what_is_written(call: Any, tiny: Path, artifact: Path, tmp_path: Path) -> None:
    done = call("compress", tiny, "--method", "gptq", "--budget", "6bits", "--dry-run", "--json")
    found = done.json
    written = tailorbird.Artifact.open(artifact)
    assert written.nbytes <= found["bytes"] <= written.nbytes + 2000
    assert written.bits <= found["bits"] <= 6
    assert found["smallest_bytes"] < found["bytes"]
    assert found["estimate"]["total_seconds"] > 0 and found["estimate"]["memory_bytes"] > 0
    assert not list(tmp_path.iterdir())
    shown = call("compress", tiny, "--budget", "6bits", "--dry-run").out
    assert f"{found['bytes']:,} bytes" in shown and "embedding" in shown


def test_plan_is_applied(call: Any, tiny: Path, tmp_path: Path) -> None:
    printed = call("compress", tiny, "--method", "rtn", "--budget", "4bits", "--dry-run", "--json").json
    part = printed["plan"]["parts"][3]
    part["format"]["bits"] = 7
    (tmp_path / "plan.json").write_text(json.dumps(printed["plan"]))
    (tmp_path / "whole.json").write_text(json.dumps(printed))
    dry = [
        call("compress", tiny, "--plan", tmp_path / f"{n}.json", "--dry-run", "--json").json for n in ("plan", "whole")
    ]
    assert dry[0]["plan"] == dry[1]["plan"] == printed["plan"]
    out = tmp_path / "out"
    done = call("compress", tiny, "--plan", tmp_path / "plan.json", "--out", out, "--no-evaluate")
    assert done.code == 0, done.err
    shown = {entry["name"]: entry for entry in call("inspect", out, "--json").json["parts"]}
    assert shown[part["name"]]["format"]["bits"] == 7
    again = tmp_path / "again"
    assert call("compress", "--recipe", out / "recipe.toml", "--out", again, "--no-evaluate").code == 0
    assert tailorbird.Artifact.open(again).digest == tailorbird.Artifact.open(out).digest


def test_plan_of_another_method_is_refused(call: Any, tiny: Path, tmp_path: Path) -> None:
    printed = call("compress", tiny, "--method", "rtn", "--dry-run", "--json").out
    (tmp_path / "plan.json").write_text(printed)
    done = call("compress", tiny, "--plan", tmp_path / "plan.json", "--method", "gptq", "--out", tmp_path / "out")
    assert done.code == 2 and "'rtn'" in done.err


def test_inspect(call: Any, artifact: Path) -> None:
    found = call("inspect", artifact, "--json").json
    opened = tailorbird.Artifact.open(artifact)
    assert (found["digest"], found["bits"], found["bytes"]) == (opened.digest, opened.bits, opened.nbytes)
    assert found["verified"] is True
    assert len(found["parts"]) == 22
    assert set(found["parts"][0]) >= {"name", "shape", "role", "format", "bits", "bytes"}
    assert set(found["files"]) | {"manifest.json"} == set(loaded(artifact))
    assert opened.digest in call("inspect", artifact).out


@pytest.mark.parametrize("method", sorted(methods()))
def test_plans_of_every_method_are_shown(call: Any, tiny: Path, method: str) -> None:
    budget = "3bits" if method == "trellis" else "5bits"
    assert "embedding" in call("compress", tiny, "--method", method, "--budget", budget, "--dry-run").out


def test_bits_of_every_format_are_shown() -> None:
    trellis, planes = TrellisSpec((3, 5), 32), PlaneSpec.uniform(3, 64, 32, "integer")
    forms = {
        "1.5": TrellisSpec.uniform(3, 64, 32),
        "2.00 (1.5-2.5)": trellis,
        "2.00 (1.5-2.5): 25%, 3: 75%": RowSpec((2, 6), (trellis, planes)),
        "3+4": SumSpec((Term.whole(planes), Term.whole(PlaneSpec.uniform(4, 64, 32, "integer")))),
        "4": LevelSpec(4, 2, 32),
    }
    part = {"name": "w", "role": "mlp", "shape": [8, 64], "bytes": 1, "bits": 1.0}
    shown = parts_table(part | {"format": form.to_json()} for form in forms.values())
    assert list(shown.columns[3].cells) == list(forms)


def test_verify(call: Any, artifact: Path, tmp_path: Path) -> None:
    found = call("verify", artifact, "--json").json
    assert found["ok"] and found["digest"] == tailorbird.Artifact.open(artifact).digest and len(found["checks"]) >= 4
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    content = bytearray((damaged / "head.safetensors").read_bytes())
    content[-1] ^= 1
    (damaged / "head.safetensors").write_bytes(content)
    done = call("verify", damaged)
    assert (done.code, done.out) == (6, "")
    assert "error: " in done.err and "head.safetensors" in done.err and "hint: " in done.err
    told = call("verify", damaged, "--json")
    assert told.json["exit_code"] == told.code == 6 and "head.safetensors" in told.json["error"]


def test_evaluate(call: Any, artifact: Path, tiny: Path, text: Path) -> None:
    done = call("evaluate", artifact, "--text", text, "--tokens", 126, "--json")
    found = done.json
    assert {"perplexity", "tokens", "kl", "top1_agreement", "window", "stride", "bos", "text"} <= set(found)
    assert (found["tokens"], found["window"], found["stride"], found["bos"]) == (126, 64, 63, True)
    assert found["text"] == str(text) and found["reference"] == str(tiny)
    assert found["kl"] > 0 and 0 < found["top1_agreement"] <= 1
    assert "note: the original is" in done.err
    alone = call("evaluate", tiny, "--text", text, "--tokens", 126, "--json").json
    assert alone["kl"] is None and alone["top1_agreement"] is None
    assert alone["perplexity"] == pytest.approx(found["reference_perplexity"])
    api = tailorbird.evaluate(artifact, tiny, tokens=126, text=text)
    assert api.to_json() == found
    assert "perplexity" in call("evaluate", artifact, "--text", text, "--tokens", 63, "--window", 32).out


def test_evaluate_without_the_original(call: Any, artifact: Path, text: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(artifact, moved)
    (moved / "recipe.toml").write_text('model = "/no/such/model"\n')
    done = call("evaluate", moved, "--text", text, "--tokens", 63, "--json")
    assert done.code == 0 and done.json["kl"] is None and "note: no comparison" in done.err
    (moved / "recipe.toml").unlink()
    assert call("evaluate", moved, "--text", text, "--tokens", 63, "--json").json["kl"] is None
    none = call("evaluate", artifact, "--reference", "none", "--text", text, "--tokens", 63, "--json")
    assert none.json["kl"] is None


def test_evaluate_refuses_a_window_the_model_cannot_see(call: Any, artifact: Path, text: Path) -> None:
    done = call("evaluate", artifact, "--text", text, "--window", 65)
    assert done.code == 2 and "hint: --window 64" in done.err


def test_run_streams(call: Any, artifact: Path) -> None:
    done = call("run", artifact, "The tailorbird", "--max-tokens", 5)
    assert done.code == 0, done.err
    found = call("run", artifact, "The tailorbird", "--max-tokens", 5, "--json").json
    assert done.out == found["text"] + "\n"
    assert "a second" in done.err
    drawn = [
        call("run", artifact, "The", "--max-tokens", 5, "--temperature", 1, "--top-k", 50, "--seed", seed).out
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_run_offers_every_arithmetic(call: Any, artifact: Path) -> None:
    done = call("run", artifact, "The", "--max-tokens", 3, "--activations", "fp32", "--cache", "int8", "--json")
    assert done.json["tokens"] == 3 and done.json["finish"] == "length"
    assert call("run", artifact, "The", "--cache", "fp8").code == 2
    refused = call("run", artifact, "The", "--seed", 99999999999999999999)
    assert refused.code == 2 and "seed is 99999999999999999999" in refused.err and "hint:" in refused.err


def test_bench_stands_beside_the_wall(call: Any, artifact: Path) -> None:
    args = ("--decode-tokens", 3, "--prefill-tokens", 20, "--runs", 1)
    found = call("bench", artifact, *args, "--json").json
    assert found["decode_tokens_per_s"] > 0 and found["prefill_tokens_per_s"] > 0
    assert found["wall_tokens_per_s"] == pytest.approx(found["read_bytes_per_s"] / found["bytes_per_token"])
    parts = call("inspect", artifact, "--json").json["parts"]
    assert found["bytes_per_token"] == sum(part["bytes"] for part in parts)  # tied: all are read
    assert 0 < found["outside_products"] < 1
    assert "of it" in call("bench", artifact, *args).out
    drawn = call("bench", artifact, *args, "--temperature", 1, "--json").json
    assert drawn["temperature"] == 1 and found["temperature"] == 0 and 0 < drawn["outside_products"] < 1
    assert call("bench", artifact, *args, "--context", 30, "--json").json["context"] == 30
    assert call("bench", artifact, *args, "--context", 0).code == 2
    assert call("bench", artifact, *args, "--context", 1000).code == 2
    assert call("bench", artifact, *args, "--temperature", -1).code == 2
    assert call("bench", artifact, "--decode-tokens", 1000).code == 2


def test_profile_is_a_table(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_SECONDS", 0.0)
    monkeypatch.setattr(profile, "SHAPES", ((64, 128), (32, 64)))
    path = tmp_path / "this.json"
    found = call("profile", "--out", path, "--json").json
    assert {(e["rows"], e["cols"]) for e in found["entries"]} == {(64, 128), (32, 64)}
    assert {e["bits"] for e in found["entries"]} == set(range(1, 9))
    assert all(e["milliseconds"] > 0 for e in found["entries"]) and found["read_bytes_per_s"] > 0
    read = profile.Profile.read(path)
    assert len(read.entries) == len(found["entries"]) and read.kernels == found["kernels"]
    again = call("profile", "--out", path)
    assert again.code == 2 and "there already" in again.err
    path.write_text(path.read_text().replace('"bits": 1', '"bits": "1"'))
    with pytest.raises(DataError, match="no profile"):
        profile.Profile.read(path)


def test_methods(call: Any) -> None:
    found = {method["name"]: method for method in call("methods", "--json").json}
    assert {"rtn", "gptq", "slim-llm"} <= set(found)
    assert found["gptq"]["paper"] == "arXiv 2210.17323" and found["gptq"]["status"] == "ready"
    assert found["gptq"]["options"]["damp"] == 0.01
    assert "slim-llm" in call("methods").out


def test_demo_twice(call: Any, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo-out"
    first = call("demo", "--model", tiny, "--out", out, "--method", "rtn")
    assert first.code == 0, first.err
    again = call("demo", "--model", tiny, "--out", out, "--method", "rtn")
    assert again.out == first.out and "is there already" in again.err
    assert "report.html" in first.out and "compressed" in first.out
    (out / "report.json").write_text('{"digest": "other"}')
    assert call("demo", "--model", tiny, "--out", out).code == 6
