"""What `import tailorbird` does to transformers, in processes of their own: before it, after it, and without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest

_targets = run_path(str(Path(__file__).parents[1] / "artifact" / "targets" / "conftest.py"))
tiny = pytest.fixture(scope="module")(_targets["tiny"].__wrapped__)
artifact_of = pytest.fixture(scope="module")(_targets["artifact_of"].__wrapped__)

BEFORE = """
import tailorbird
assert not {"torch", "transformers"} & set(sys.modules)
from transformers import AutoModelForCausalLM, AutoTokenizer
"""
AFTER = """
import transformers.quantizers.auto, transformers.models.auto.tokenization_auto
import tailorbird
from transformers import AutoModelForCausalLM, AutoTokenizer
"""
BETWEEN = """
import transformers
import tailorbird
from transformers import AutoModelForCausalLM, AutoTokenizer
"""
LOAD = """
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.lm_head).__name__, AutoTokenizer.from_pretrained(sys.argv[1]).bos_token)
"""


def run(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", f"import sys\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("imports", [BEFORE, BETWEEN, AFTER], ids=["before", "between", "after"])
def test_in_any_order(imports: str, artifact_of: Any) -> None:
    done = run(imports + LOAD, artifact_of("llama"))
    assert (done.returncode, done.stdout) == (0, "PackedLinear <s>\n"), done.stderr
    assert "REPORT" not in done.stderr


def test_without_this_package_transformers_refuses(artifact_of: Any) -> None:
    done = run("from transformers import AutoModelForCausalLM\n" + LOAD, artifact_of("llama"))
    assert done.returncode == 1
    assert "OSError" in done.stderr and "model.safetensors" in done.stderr


def test_without_transformers_nothing_happens(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('not here')")
    done = run(
        "sys.path.insert(0, sys.argv[1])\nimport tailorbird\n"
        "try:\n    import transformers.quantizers.auto\nexcept ImportError as error:\n    print(error)",
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "not here\n", "")
