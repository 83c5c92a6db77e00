"""Exit codes, where errors go, recipes, and what an interruption leaves."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

import tailorbird
from tailorbird.cli.progress import PieceBar
from tailorbird.methods.rtn import RTN

CASES: list[tuple[list[str], int, str]] = [
    ([], 2, ""),
    (["compress"], 2, "MODEL"),
    (["compress", "TINY"], 2, "--out"),
    (["compress", "TINY", "--out", "OUT", "--wrong"], 2, "--wrong"),
    (["compress", "TINY", "--out", "OUT", "--samples", "many"], 2, "--samples"),
    (["compress", "TINY", "--out", "OUT", "--budget", "big"], 2, "'big'"),
    (["compress", "TINY", "--out", "OUT", "--method", "magic"], 2, "'magic'"),
    (["compress", "TINY", "--out", "OUT", "--set", "group_size"], 2, "KEY=VALUE"),
    (["compress", "TINY", "--out", "OUT", "--set", "unknown=1"], 2, "'unknown'"),
    (["compress", "no-such-model", "--out", "OUT"], 3, "no-such-model"),
    (["compress", "TINY", "--out", "OUT", "--data", "no.txt"], 4, "no.txt"),
    (["compress", "TINY", "--out", "OUT", "--budget", "1kB"], 5, "smallest possible"),
    (["inspect", "OUT"], 6, "manifest.json"),
    (["nonsense"], 2, "nonsense"),
]


@pytest.mark.parametrize(("args", "code", "word"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_exit_codes(call: Any, tiny: Path, tmp_path: Path, args: list[str], code: int, word: str) -> None:
    places = {"TINY": str(tiny), "OUT": str(tmp_path / "out")}
    words = [places.get(word, word) for word in args]
    done = call(*words)
    assert done.code == code
    assert word in done.err and "Traceback" not in done.err
    assert not args or (done.out == "" and "error: " in done.err)
    assert not (tmp_path / "out").exists()
    if len(args) > 1:
        told = call(*words, "--json")
        assert told.code == code
        assert set(told.json) == {"error", "hint", "exit_code"} and told.json["exit_code"] == code


def test_debug_keeps_the_traceback(call: Any, tmp_path: Path) -> None:
    with pytest.raises(tailorbird.TailorbirdError):
        call("--debug", "inspect", tmp_path)


def test_json_is_alone_on_standard_output(
    call: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library prints goes to standard error."""
    begin = PieceBar.begin

    def chatty(self: PieceBar, pieces: int) -> None:
        print("a library talks")
        begin(self, pieces)

    monkeypatch.setattr(PieceBar, "begin", chatty)
    done = call("compress", tiny, "--method", "rtn", "--out", tmp_path / "out", "--no-evaluate", "--json")
    assert done.json["quality"] is None and "a library talks" in done.err


def test_interrupted_and_resumed(
    call: Any, tiny: Path, text: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    args = ["compress", tiny, "--out", out, "--method", "gptq", "--budget", "6bits", "--data", text]
    args += ["--samples", 8, "--length", 32, "--no-evaluate"]
    advance = PieceBar.advance

    def stop(self: PieceBar, piece: str) -> None:
        advance(self, piece)
        if self.done == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(PieceBar, "advance", stop)
        done = call(*args)
    assert (done.code, done.out) == (130, "")
    assert "--resume" in done.err and f"{out}.partial" in done.err and not out.exists()
    refused = call(*args)
    assert refused.code == 2 and "--resume" in refused.err
    assert call(*args, "--resume").code == 0
    assert tailorbird.Artifact.open(out).digest == tailorbird.Artifact.open(artifact).digest
    assert not Path(f"{out}.partial").exists()


def test_recipe_gives_the_same_digest(call: Any, artifact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = call("compress", "--recipe", artifact / "recipe.toml", "--out", again, "--no-evaluate", "--json")
    assert done.code == 0, done.err
    assert done.json["digest"] == tailorbird.Artifact.open(artifact).digest
    assert (again / "recipe.toml").read_text() == (artifact / "recipe.toml").read_text()


def test_the_command_line_wins_over_a_recipe(call: Any, tiny: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"model = {json.dumps(str(tiny))}\nmethod = 'rtn'\nbudget = '7bits'\ndry-run = true\njson = true\n"
        "[set]\nsymmetric = true\ngroup_size = 32\n"
    )
    found = call("compress", "--recipe", recipe).json
    assert found["budget"] == ["7bits"]
    assert found["plan"]["options"] == RTN(group_size=32, symmetric=True).options()
    found = call("compress", "--recipe", recipe, "--budget", "5bits", "--set", "group_size=16").json
    assert found["budget"] == ["5bits"] and found["plan"]["options"]["group_size"] == 16


def test_recipes_serve_other_commands(call: Any, artifact: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"artifact = {json.dumps(str(artifact))}\njson = true\n")
    assert call("inspect", "--recipe", recipe).json["verified"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("colour = 'red'\n", "'colour'"),
        ("recipe = 'x'\n", "'recipe'"),
        ("= 1", "TOML"),
        ("[method]\na=1\n", "'method'"),
    ],
)
def test_bad_recipes(call: Any, tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "r.toml").write_text(content)
    done = call("compress", "--recipe", tmp_path / "r.toml", "--out", tmp_path / "out")
    assert done.code == 2 and word in done.err
    assert call("compress", "--recipe", tmp_path / "missing.toml").code == 2
