"""What README.md shows works: blocks after ``<!-- tested -->`` run here, on a tiny model in place of the demo's.

Lines of bash blocks are calls of ``tailorbird``; python blocks run whole. The scripts of examples/ run as they are.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- tested -->\n```(bash|python)\n(.*?)```", README, re.DOTALL)
MODEL = "demo:gemma-270m"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = runpy.run_path(str(ROOT / "tests" / "cli" / "conftest.py"))["make_tiny"]
    return Path(make(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder; verify in this process, a fresh one takes seconds to start."""
    import tailorbird.artifact.verify as verifying

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILORBIRD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(verifying, "_verify_afresh", verifying.verify)


def test_there_are_blocks() -> None:
    assert [kind for kind, _ in BLOCKS] == ["bash", "bash", "python", "python", "bash"]
    assert README.count("```bash") + README.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("index", [i for i, (kind, _) in enumerate(BLOCKS) if kind == "bash"])
def test_commands_run(index: int, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tailorbird.cli.main import call

    # The tiny model's tokenizer outweighs its weights, and it looks at few tokens: budgets and lengths are made for the
    # real one.
    lines = BLOCKS[index][1].replace(MODEL, str(tiny)).strip().splitlines()
    short = "bench small --decode-tokens 4 --prefill-tokens 32 --runs 1"
    lines = [line.replace("bench small", short) for line in lines]
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "tailorbird"
        assert call(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
        assert capsys.readouterr().out


def test_python_runs(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for code in (code for kind, code in BLOCKS if kind == "python"):
        assert len(code.strip().splitlines()) < 5
        exec(compile(code.replace(MODEL, str(tiny)), "README.md", "exec"), {})
        assert capsys.readouterr().out


# Needs a server: runs in tests/serve.
SCRIPTS = sorted(set((ROOT / "examples").glob("*.py")) - {ROOT / "examples" / "chat_client.py"})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_examples_run(
    script: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = [] if script.name == "own_module.py" else [str(tiny)]
    monkeypatch.setattr(sys, "argv", [str(script), *model, str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "out" / "manifest.json").is_file()
    assert "bytes" in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
