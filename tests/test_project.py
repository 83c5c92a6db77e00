"""What the repository promises about itself: size, documentation, light imports, licences, packaged texts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TARGETS = [
    *("setup", "demo", "test", "test-all", "lint"),
    *("bench", "bench-quality", "bench-memory", "docs", "clean"),
]
FORBIDDEN = ["/" + "work/", "../" + "shared"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(path: Path) -> Iterator[Definition]:
    """Every function and class of a file, nested ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Definition):
            yield node


def tracked() -> list[Path]:
    """The files git knows or would add; without git, everything in the folders of the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        files = [ROOT / name for name in result.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        folders = ("src", "tests", "scripts", "docs", "examples", "benchmarks", ".github", ".ci")
        files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
        files = [path for path in files if "__pycache__" not in path.parts] + list(ROOT.glob("*.*"))
    return [path for path in files if path.is_file()]


def test_files_stay_small() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    print(f"{sum(lines.values())} lines in {len(lines)} files under src")
    assert {str(path): count for path, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_stay_small() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in SOURCES
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_public_names_are_documented() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, Definition) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_are_documented(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", ["tailorbird", "tailorbird.cli.main"])
def test_imports_stay_light(module: str) -> None:
    """`tailorbird --help` answers at once because no heavy library is loaded for it."""
    heavy = {"torch", "numpy", "scipy", "safetensors", "transformers", "gguf", "lm_eval"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_no_file_names_the_place_it_was_written_in() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in tracked()
        for word in FORBIDDEN
        if word.encode() in path.read_bytes()
    ]
    assert found == []


def test_licence_is_there() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Wikipedia" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(TARGETS) <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_changelog_has_the_version() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    changelog = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version and changelog
    assert version[1] == changelog[1]


def test_torch_is_pinned() -> None:
    """Without the pin, plain `torch` brings several gigabytes of CUDA libraries."""
    assert re.search(r"^torch==\S+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
