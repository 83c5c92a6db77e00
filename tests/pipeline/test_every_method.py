"""What every registered method keeps as a whole job: interrupted and resumed to the same bytes, decided by the seed
alone, and able to do the smallest budget it names."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird.artifact.partial import partial_folder
from tailorbird.errors import BudgetError
from tailorbird.formats import PlaneSpec, RowSpec, above_eight
from tailorbird.methods import find, methods
from tailorbird.pipeline import compress, prepare
from tailorbird.pipeline.quality import evaluate

# A job of each, as short as it gets.
QUICK: dict[str, dict[str, Any]] = {
    "autoround": {"iterations": 3},
    "awq": {"grid": 3},
    "omniquant": {"iterations": 2},
    "slim-llm": {"search": 2},
    "slim-llm-plus": {"iterations": 2, "start": "sweep"},
    "trellis": {"beam": 4},
}
METHODS = pytest.mark.parametrize("method", methods())


@pytest.fixture(scope="module")
def lines(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration documents: of a single one every seed would choose the same windows."""
    folder = tmp_path_factory.mktemp("lines")
    words = tiny.make_text(folder / "words.txt").read_text().split()
    texts = [json.dumps({"text": " ".join(words[i : i + 50])}) for i in range(0, 2000, 50)]
    (folder / "lines.jsonl").write_text("\n".join(texts))
    return folder / "lines.jsonl"


def job_of(method: str, lines: Path) -> dict[str, Any]:
    """Arguments under which the method uses its own format, and no part has more than eight bits."""
    bits = "5bits" if find(method).own_format or method == "nf4" else "4bits"
    options = QUICK.get(method, {})
    return {"method": method, "budget": bits, "options": options, "data": lines, "samples": 6, "length": 24}


def kinds(specs: Any) -> set[str]:
    """Kinds of format that occur."""
    return {form.kind for spec in specs for form in (spec.formats if isinstance(spec, RowSpec) else (spec,))}


@METHODS
@pytest.mark.usefixtures("here")
def test_interrupted_and_resumed(
    model_of: Any, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    job, compressing = job_of(method, lines), import_module("tailorbird.pipeline.compress")
    plain, fitted, stop = compressing.fit_piece, [], False

    def fit(prepared: Any, piece: Any, *rest: Any) -> Any:
        if stop and piece.block == 1:
            raise KeyboardInterrupt
        fitted.append(piece.file)
        return plain(prepared, piece, *rest)

    monkeypatch.setattr(compressing, "fit_piece", fit)
    whole = compress(model_of("untied"), tmp_path / "whole", **job).artifact
    # The format that no other method has occurs too; free planes are for one and two bits.
    assert method == "planes" or kinds(whole.plan.specs.values()) >= find(method).kinds - {PlaneSpec.kind}
    every, stop = sorted(fitted), True
    fitted.clear()
    with pytest.raises(KeyboardInterrupt):
        compress(model_of("untied"), tmp_path / "cut", **job)
    assert partial_folder(tmp_path / "cut").exists() and 0 < len(fitted) < len(every)
    stop = False
    torch.manual_seed(11)  # whatever the process did before, the job's seed decides
    assert compress(model_of("untied"), tmp_path / "cut", resume=True, **job).artifact.digest == whole.digest
    assert sorted(fitted) == every  # nothing twice


@METHODS
@pytest.mark.usefixtures("here")
def test_the_seed_decides(model_of: Any, lines: Path, tmp_path: Path, method: str) -> None:
    """The same seed gives the same bytes by the test above, which makes every piece anew; here another one."""
    job = job_of(method, lines)
    one, other = (
        compress(model_of("untied"), tmp_path / str(seed), seed=seed, **job).artifact.digest for seed in (1, 2)
    )
    # Without calibration nothing is left to a seed.
    assert (one == other) is not find(method).from_options(job["options"]).calibrated


@METHODS
@pytest.mark.usefixtures("here")
def test_the_smallest_that_is_named_works(model_of: Any, lines: Path, tmp_path: Path, method: str) -> None:
    job = job_of(method, lines)
    with pytest.raises(BudgetError, match="the smallest possible with these options is") as caught:
        prepare(model_of("untied"), method, "1kB", job["options"])
    found = re.search(r"(\d+) bytes \(([\d.]+) bits", caught.value.message)
    assert found is not None
    with pytest.raises(BudgetError):
        prepare(model_of("untied"), method, f"{int(found[1]) - 1}B", job["options"])
    artifact = compress(model_of("untied"), tmp_path / "a", **job | {"budget": f"{found[1]}B"}).artifact
    assert artifact.nbytes <= int(found[1])


@METHODS
@pytest.mark.usefixtures("here")
def test_above_eight_bits_it_is_closer_still(model_of: Any, lines: Path, tmp_path: Path, method: str) -> None:
    """Parts that are rounded so stand beside what the method scales, learns and distils on the way."""
    job = job_of(method, lines)
    job |= {"budget": "12bits", "options": job["options"] | {"distill": 1}}
    artifact = compress(model_of("untied"), tmp_path / "a", **job).artifact
    above = [part for part in artifact.plan.parts if above_eight(artifact.plan.specs[part.name])]
    assert artifact.bits <= 12 and {"embedding", "head"} <= {part.role for part in above}
    if not find(method).own_format:
        assert any(part.block is not None for part in above)
        found = evaluate(artifact.folder, model_of("untied"), tokens=60, window=24, text=lines)
        assert found.kl is not None and found.kl < 1e-4
