"""AWQ: what the searches promise, and that scales are folded without a trace."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Model, Part
from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import UsageError
from tailorbird.fit.clip import clipped
from tailorbird.fit.rounding import rounded
from tailorbird.formats import PlaneSpec
from tailorbird.measure.block import Block, Transformed
from tailorbird.measure.statistics import Stats
from tailorbird.measure.stream import Stream
from tailorbird.methods.awq import AWQ, _Search
from tailorbird.methods.rtn import RTN
from tailorbird.transform import scale

make_model = run_path(str(Path(__file__).parents[1] / "anatomy" / "conftest.py"))["make_model"]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3"]
IDS = torch.randint(0, 90, (2, 17), generator=torch.Generator().manual_seed(0))


def block_of(folder: Path, dtype: torch.dtype, states: Path, bits: int = 3) -> Block:
    """The first block of a model, with norms stored in `dtype`."""
    model = Model.open(open_checkpoint(folder))
    table = model.read("model.embed_tokens.weight").float()
    # Large channels, as trained models have them.
    table[:, [3, 17]] *= 8
    stream = Stream(model, [IDS], lambda ids: table[ids], states)
    parts = [part for part in model.parts if part.block == 0]
    kept = {name: model.read(name).to(dtype) for name in model.kept() if name.startswith("model.layers.0.")}
    stats = stream.measure(0, parts, AWQ.needs)
    model.fill("model.layers.0", replaced=kept)
    planned = {part.name: PlaneSpec.uniform(bits, part.shape[1], 16) for part in parts}
    return stream.block(0, parts, stats, kept, 0, lambda done, total: None, planned)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_transformed_block_computes_what_it_did(family: str, dtype: Any, make_model: Any, tmp_path: Path) -> None:
    block = block_of(make_model(family)[0], dtype, tmp_path)
    transformed = AWQ(grid=5).transform(block)
    changed = transformed.tensors
    assert set(transformed.scales) <= set(block.weights)
    weights = {name.removesuffix(".weight"): t for name, t in changed.items() if name not in block.kept}
    kept = {name: t for name, t in changed.items() if name in block.kept}
    assert set(weights) <= set(block.weights) and len(kept) == 2
    assert all(tensor.dtype == dtype for tensor in kept.values())
    assert {name.split(".")[-1] for name in weights} >= ({"qkv_proj"} if family == "phi3" else {"q_proj", "up_proj"})
    moved = max(float((weights[name] - block.weights[name]).abs().max()) for name in weights)
    assert moved > 0.01
    wanted = block.run(0)
    assert torch.allclose(block.run(0, weights, kept=kept), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_a_ratio_of_zero_is_rounding_and_no_choice_loses_more(make_model: Any, tmp_path: Path) -> None:
    block = block_of(make_model("llama")[0], torch.bfloat16, tmp_path)
    seen: list[list[float]] = []

    class Watched(_Search):
        def _best(self, names: Any, candidates: Any, loss: Any) -> int:
            losses: list[float] = []

            def watched(given: Any) -> float:
                losses.append(loss(given))
                return losses[-1]

            best = super()._best(names, candidates, watched)
            assert torch.equal(candidates[0], torch.ones_like(candidates[0]))
            assert losses[best] <= losses[0]
            seen.append(losses)
            return best

    search = Watched(block, [k / 20 for k in range(20)])
    search.after_norm("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))
    search.after_norm("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))
    search.after_layer("mlp.up_proj", "mlp.down_proj")
    assert len(seen) == 3 and all(len(losses) == 20 for losses in seen)
    assert any(min(losses) < 0.95 * losses[0] for losses in seen)
    assert AWQ(grid=1).transform(block) == Transformed()


def test_grouped_values_are_left_alone(make_model: Any, tmp_path: Path) -> None:
    block = block_of(make_model("llama")[0], torch.float32, tmp_path)
    search = _Search(block, [0.0, 0.5])
    search.after_layer("self_attn.v_proj", "self_attn.o_proj")
    assert search.changed == {}


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["integer", "none", "float"])
def test_clipping_never_loses_more(bits: int, kind: Any, layer_of: Any) -> None:
    for seed in range(3):
        layer = layer_of(96, 40, 300, [5, 40], seed)
        spec = PlaneSpec.uniform(bits, 96, 32, kind, "fp16")
        before, after = (
            rounded(w, spec) - layer.weight for w in (layer.weight, clipped(layer.weight, layer.gram, spec))
        )
        for own in (slice(0, 32), slice(32, 64), slice(64, 96), slice(0, 96)):
            lost = [(e[:, own] @ layer.gram[own, own] * e[:, own]).sum(1) for e in (before, after)]
            assert (lost[1] <= lost[0] * (1 + 1e-4)).all()
        assert bits == 1 or float(lost[1].sum()) < float(lost[0].sum())


def test_scored_layers_are_not_clipped(make_model: Any, tmp_path: Path) -> None:
    block = block_of(make_model("llama")[0], torch.float32, tmp_path)
    tuned = AWQ().tune(block, block.planned)
    assert {name.split(".")[-1] for name in tuned} == {"q_proj", "k_proj"}
    for name, fitted in tuned.items():
        plain = RTN().fit(block.weights[name].clone(), Stats(), block.planned[name])
        assert torch.equal(fitted.codes, plain.codes)


@pytest.mark.parametrize("bits", [2, 3])
def test_less_is_lost_than_by_rounding(bits: int, planted: Any) -> None:
    part, stats = Part("w", (96, 512), "mlp"), Stats(planted.gram, planted.inputs)
    errors = [
        planted.error(method.fit(planted.weight.clone(), stats, method.spec(part, bits)).pack())
        for method in (RTN(group_size=128), AWQ(group_size=128), AWQ(group_size=128, compensate=True))
    ]
    assert errors[1] < errors[0] and errors[2] < 0.5 * errors[0]


def test_gains_that_are_nothing_stay() -> None:
    gains = torch.tensor([0.0, 1.0, 2.0, 1e-3], dtype=torch.bfloat16)
    folded, left = scale.into_norm(gains, torch.tensor([3.0, 3.0, 0.3, 1e30]), 1.0)
    assert folded[0] == 0 and left[0] == 1
    assert torch.allclose(folded.double() * left.double(), gains.double(), atol=1e-12)


def test_no_grid() -> None:
    with pytest.raises(UsageError, match="grid"):
        AWQ(grid=0)
