"""The surface of the command line: what there is, what it answers to, and how fast it wakes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tailorbird import errors
from tailorbird.cli.main import EXIT_CODES, app
from tailorbird.errors import TailorbirdError

COMMON = {"--json", "--recipe"}
SURFACE = {
    "compress": {
        *("model", "--method", "--budget", "--out", "--data", "--samples", "--length", "--seed", "--set", "--plan"),
        *("--target", "--allocate", "--refine", "--context", "--cache", "--profile"),
        *("--resume", "--dry-run", "--evaluate", "--no-evaluate", "--eval-tokens"),
    },
    "pareto": {
        *(
            "model",
            "--out",
            "--method",
            "--points",
            "--measure",
            "--plans",
            "--data",
            "--samples",
            "--length",
            "--seed",
        ),
        *("--set", "--target"),
    },
    "compare": {"items", "--bench", "--parts", "--model"},
    "evaluate": {
        "model",
        "--reference",
        "--tokens",
        "--window",
        "--text",
        "--tasks",
        "--candidates",
        "--draw",
        "--seed",
    },
    "run": {
        *("model", "prompt", "--max-tokens", "--temperature", "--top-k", "--top-p", "--seed", "--stop", "--dense"),
        *("--min-p", "--activations", "--cache", "--threads"),
    },
    "serve": {
        *("model", "--host", "--port", "--api-key", "--name", "--plain-chat", "--slots", "--queue", "--max-tokens"),
        *("--max-prompt-tokens", "--max-messages", "--max-body", "--grace", "--dense"),
    },
    "inspect": {"artifact"},
    "verify": {"artifact"},
    "export": {"artifact", "--to", "--out", "--dtype", "--set", "--reencode", "--refit", "--original"}
    | {"--data", "--samples", "--length", "--seed", "--budget"},
    "bench": {"model", "--decode-tokens", "--prefill-tokens", "--runs"}
    | {"--temperature", "--context", "--threads", "--dense"},
    "profile": {"--out", "--threads"},
    "methods": set(),
    "demo": {"--out", "--method", "--budget", "--model"},
    "data list": set(),
    "data get": {"name", "--from"},
    "train": {"kind", "--data", "--out", "--split", "--shape", "--set", "--resume"},
    "recommend": {"model", "--history", "--count", "--seen"},
    "tailor train": {"trunk", "--out", "--set", "--system", "--budget", "--detector", "--resume"},
    "tailor make": {"model", "--history", "--out"},
    "tailor apply": {"model", "--patch", "--history", "--count"},
    "tailor export": {"model", "--out"},
    "simulate": {"model", "--devices", "--budget", "--out", "--resume", "--svg"},
}


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command below a group, by its words."""
    for word, sub in command.commands.items():
        full = f"{name} {word}".strip()
        yield from leaves(sub, full) if hasattr(sub, "commands") else [(full, sub)]


def test_surface_is_frozen() -> None:
    """Whoever changes this changes what users have in their scripts: say so in CHANGELOG.md."""
    command = typer.main.get_command(app)
    found = {
        name: {option for p in sub.params for option in [*p.opts, *p.secondary_opts]} - COMMON
        for name, sub in leaves(command)
    }
    assert found == SURFACE
    assert {option for p in command.params for option in p.opts} == {"--debug", "--version"}
    for _, sub in leaves(command):
        assert {option for p in sub.params for option in p.opts} >= COMMON


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["compress", "--help"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom tailorbird.cli.main import call\n"
        f"code = call({args!r})\n"
        "heavy = {'torch', 'numpy', 'scipy', 'safetensors', 'transformers', 'tokenizers', 'gguf', 'fastapi'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'{code} {sorted(heavy)}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tailorbird" in done.stdout


def test_every_exit_code_is_documented() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TailorbirdError)]
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in {kind.exit_code for kind in kinds} | {0, 130}:
        assert f"{code} " in EXIT_CODES
        assert f"| {code} |" in page


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, options in SURFACE.items():
        assert f"tailorbird {name}" in page
        for option in options:
            assert (option in page) if option.startswith("--") else (option.upper() in page), option
