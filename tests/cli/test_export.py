"""``tailorbird export`` and what `verify` says about its folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_export_and_verify(call: Any, artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain"
    done = call("export", artifact, "--to", "hf", "--out", out, "--dtype", "fp32")
    assert done.code == 0, done.err
    assert f"{out}:" in done.out and "every weight is the artifact's" in done.out
    checked = call("verify", out, "--json").json
    assert checked["ok"] and checked["marked_verified"] and len(checked["checks"]) == 2
    evaluated = call("run", out, "The tailorbird", "--max-tokens", "3", "--json")
    assert evaluated.code == 0 and evaluated.json["tokens"] >= 0


def test_json(call: Any, artifact: Path, tmp_path: Path) -> None:
    done = call("export", artifact, "--to", "hf", "--out", tmp_path / "out", "--json").json
    assert done["target"] == "hf" and not done["exact"] and done["changes"] == []
    assert done["bytes"] > done["artifact_bytes"] and 0 < done["check"]["error"] <= 2**-8
    again = call("export", artifact, "--to", "hf", "--out", tmp_path / "out", "--json")
    assert again.code == 2 and "exists" in again.json["error"]


@pytest.mark.parametrize(
    "options, words",
    [(["--to", "tflite"], "no target 'tflite'"), (["--to", "hf", "--dtype", "int8"], "no dtype"),
     (["--to", "hf", "--set", "x=1"], "no option 'x'"), (["--to", "hf", "--set", "x"], "not KEY=VALUE")],
)  # fmt: skip
def test_wrong_usage(options: list[str], words: str, call: Any, artifact: Path, tmp_path: Path) -> None:
    done = call("export", artifact, "--out", tmp_path / "out", *options)
    assert done.code == 2 and words in done.err and "hint:" in done.err
    assert not list(tmp_path.iterdir())


def test_refused_and_solved_anew(call: Any, tiny: Path, text: Path, tmp_path: Path) -> None:
    """The command of the hint, run as it stands, makes an artifact that obeys the target."""
    import shlex

    from tailorbird.artifact import Artifact, targets
    from tailorbird.plan import Plan

    common = ["--data", text, "--samples", "8", "--length", "32", "--no-evaluate"]
    plan = tmp_path / "plan.json"
    shown = call(
        "compress", tiny, "--method", "rtn", "--budget", "5bits", "--set", "group_size=16", "--dry-run", "--json"
    )
    data = shown.json["plan"]
    for part in data["parts"]:
        if part["role"] == "mlp":
            part["format"] |= {"bits": "2345" * (part["shape"][1] // 64) + "34" * (part["shape"][1] % 64 // 32)}
            part["format"] |= {"offset": "float"} if ".0." in part["name"] else {}
    from tailorbird.files import write_json

    write_json(plan, Plan.from_json(data).to_json())
    made = call("compress", tiny, "--plan", plan, "--out", tmp_path / "mixed", *common)
    assert made.code == 0, made.err
    pytest.importorskip("compressed_tensors")
    refused = call("export", tmp_path / "mixed", "--to", "compressed-tensors", "--out", tmp_path / "out")
    assert refused.code == 2 and "mixed" in refused.err
    hint = refused.err.partition("hint: solve it anew for the target: ")[2].partition("; or go on")[0]
    words = shlex.split(hint)[1:]
    words[words.index("--out") + 1] = str(tmp_path / "anew")
    assert call(*words, "--no-evaluate").code == 0
    anew = Artifact.open(tmp_path / "anew").plan
    rules = targets.find("compressed-tensors").rules(anew.parts)
    assert all(rules.allows(part, anew.specs[part.name]) for part in anew.parts)
    assert 'target = "compressed-tensors"' in (tmp_path / "anew" / "recipe.toml").read_text()
    told = call("export", tmp_path / "mixed", "--to", "compressed-tensors", "--out", tmp_path / "out", "--reencode")
    assert told.code == 0 and "bytes then" in told.out and "error then" in told.out, told.err
    assert call("export", tmp_path / "anew", "--to", "compressed-tensors", "--out", tmp_path / "b", "--json").json[
        "exact"
    ]


def test_gguf(call: Any, artifact: Path, tmp_path: Path) -> None:
    done = call("export", artifact, "--to", "gguf", "--out", tmp_path / "out", "--set", "loss=1")
    assert done.code == 0 and "note: Q" in done.out, done.err
    assert "solve it anew for the target: tailorbird compress" in done.out and "--target gguf-exact" in done.out
    assert f"the export as it is: {(tmp_path / 'out' / 'model.gguf').stat().st_size:,} bytes, " in done.out
    assert "packed weights solved anew: " in done.out and "(estimated by rounding to its formats)" in done.out
    assert call("verify", tmp_path / "out").code == 0
    refused = call("export", artifact, "--to", "gguf", "--out", tmp_path / "new", "--refit")
    assert refused.code == 2 and "--refit needs the original" in refused.err and "--original MODEL" in refused.err
    assert not (tmp_path / "new").exists()


def test_refit_with_calibration_options(call: Any, tiny: Path, artifact: Path, text: Path, tmp_path: Path) -> None:
    common = ["export", artifact, "--to", "gguf", "--out", tmp_path / "out"]
    refused = call(*common, "--samples", "8")
    assert refused.code == 2 and "--samples is for --refit" in refused.err
    windows = ["--data", text, "--samples", "8", "--length", "32", "--seed", "3"]
    done = call(*common, "--refit", "--original", tiny, *windows, "--set", "type=Q4_0")
    assert done.code == 0 and "fitted with error feedback" in done.out, done.err


def test_budget(call: Any, artifact: Path, tmp_path: Path) -> None:
    common = ["export", artifact, "--to", "hf", "--out", tmp_path / "out"]
    refused = call(*common, "--budget", "1kB")
    assert refused.code == 5 and "the budget 1kB allows 1,000" in refused.err and not (tmp_path / "out").exists()
    assert call(*common, "--budget", "3bits").code == 2
    assert call(*common, "--budget", "900MB").code == 0
