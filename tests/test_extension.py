"""A package of somebody else brings a method and a model family; a broken one is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tailorbird

ROOT = Path(__file__).parents[1]
SOURCE = Path(tailorbird.__file__).parents[1]

USE = """
import json, sys
from pathlib import Path

sys.path.insert(0, sys.argv[2])
import tiny
import tailorbird
import tailorbird.artifact.verify as verifying
from tailorbird.methods import methods

verifying._verify_afresh = verifying.verify
work = Path(sys.argv[1])
tiny.CONFIGS["olmo"] = tiny.CONFIGS["untied"] | {"model_type": "olmo", "attention_bias": False}
tiny.make_model("olmo", work / "model")
made = tailorbird.compress(work / "model", work / "out", method="sign", budget="2.6bits").artifact
print(json.dumps({
    "methods": list(methods()),
    "method": made.plan.method,
    "bits": sorted({spec.mean_bits for spec in made.plan.specs.values()}),
    "errors": len(made.plan.parts),
    "type": made.config["model_type"],
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example package is installed, as pip does it, without a network."""
    folder = tmp_path_factory.mktemp("extension")
    # setuptools builds beside the sources: give it a copy.
    shutil.copytree(
        ROOT / "examples" / "extension", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def _python(code: str, site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(site), str(SOURCE)])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_installed_package_brings_a_method_and_a_family(site: Path, tmp_path: Path) -> None:
    done = _python(USE, site, str(tmp_path), str(ROOT / "tests" / "pipeline"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["method"] == "sign" and found["methods"][-1] == "sign"
    assert {"rtn", "gptq", "slim-llm"} < set(found["methods"])
    assert found["type"] == "olmo" and found["bits"][0] == 1


@pytest.mark.parametrize(
    ("group", "entry", "message"),
    [
        ("methods", "no_such_module:Method", "can't be imported: No module named 'no_such_module'"),
        ("methods", "json:dumps", "is function, not type"),
        ("methods", "collections:OrderedDict", "is not a named Method"),
        ("anatomies", "json:dumps", "is function, not Anatomy"),
    ],
)
def test_a_broken_package_is_named(tmp_path: Path, group: str, entry: str, message: str) -> None:
    info = tmp_path / "broken_bird-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-bird\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tailorbird.{group}]\nthing = {entry}\n")
    code = f"""
from tailorbird.errors import UsageError
try:
    if {group!r} == "methods":
        from tailorbird.methods import find
        find("rtn")
    else:
        from tailorbird.anatomy.families import anatomies
        anatomies()
except UsageError as error:
    print(error.message, "|", error.hint)
"""
    done = _python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout and "broken-bird" in done.stdout
