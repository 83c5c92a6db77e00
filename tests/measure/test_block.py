"""A block as a method sees it is the model's own block, and differentiable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tailorbird.anatomy import Model
from tailorbird.checkpoint import open_checkpoint
from tailorbird.measure.block import Block, Transformed
from tailorbird.measure.stream import Stream

NEEDS = frozenset({"gram", "inputs", "block", "reference"})


def ids_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 90, shape, generator=torch.Generator().manual_seed(seed))


def streamed(folder: Path, work: Path) -> tuple[Stream, Tensor]:
    model = Model.open(open_checkpoint(folder))
    embedding = model.weight(model.parts[0])
    batches = [ids_of(2, 9, seed=1), ids_of(1, 4, seed=3)]
    return Stream(model, batches, lambda rows: embedding[rows], work, lambda rows: embedding[rows]), embedding


def block_of(stream: Stream, index: int) -> Block:
    model = stream.model
    parts = [part for part in model.parts if part.block == index]
    stats = stream.measure(index, parts, NEEDS)
    prefix = f"{model.blocks[index]}." if model.blocks[index] else ""
    kept = {name: model.read(name) for name in model.kept() if name.startswith(prefix)}
    return stream.block(index, parts, stats, kept, 5, lambda done, total: None)


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt"])
def test_inputs_are_of_the_compressed_prefix_and_targets_of_the_other(
    family: str, spill: bool, make_model: Any, tmp_path: Path
) -> None:
    stream, _ = streamed(make_model(family)[0], tmp_path)
    stream.aim(0)
    first = block_of(stream, 0)
    with torch.no_grad():
        assert torch.equal(first.run(0), first.targets[0])  # nothing is compressed yet
        outputs = [first.run(i).clone() for i in range(2)]
        changed = {name: 0.5 * weight for name, weight in first.weights.items()}
        prefix = [first.run(i, changed).clone() for i in range(2)]
    stream.advance(0, changed)
    stream.aim(1)
    second = block_of(stream, 1)
    assert len(second.inputs) == len(second.targets) == 2
    for i in range(2):
        assert torch.equal(second.inputs[i], prefix[i])
        with torch.no_grad():
            assert torch.equal(second.run(i, inputs=outputs[i]), second.targets[i])
            assert not torch.allclose(second.run(i), second.targets[i])


def test_it_is_differentiable_in_weights_and_in_what_is_kept(make_model: Any, tmp_path: Path) -> None:
    stream, _ = streamed(make_model("gemma3")[0], tmp_path)
    block = block_of(stream, 1)
    name, norm = next(iter(block.weights)), next(name for name in block.kept if name.endswith("input_layernorm.weight"))
    weight, gain = block.weights[name].clone().requires_grad_(), block.kept[norm].float().clone().requires_grad_()
    with torch.enable_grad():
        loss = block.run(0, {name: weight}, kept={norm: gain}).square().mean()
    slopes = torch.autograd.grad(loss, [weight, gain])

    @torch.no_grad()
    def loss_at(weight: Tensor, gain: Tensor) -> float:
        return float(block.run(0, {name: weight}, kept={norm: gain}).double().square().mean())

    step = 1e-2
    for k, slope in enumerate(slopes):
        way = slope / slope.norm()
        ends = [[t + sign * step * way if j == k else t for j, t in enumerate((weight, gain))] for sign in (1, -1)]
        found = (loss_at(*ends[0]) - loss_at(*ends[1])) / (2 * step)
        assert found == pytest.approx(float(slope.norm()), rel=0.02)


def test_equivalent_changes_leave_the_output(make_model: Any, tmp_path: Path) -> None:
    stream, _ = streamed(make_model("llama")[0], tmp_path)
    block = block_of(stream, 0)
    norm = next(name for name in block.kept if name.endswith("input_layernorm.weight"))
    scale = torch.exp2(torch.arange(32) % 3)
    readers = {name: w * scale for name, w in block.weights.items() if name.endswith(("q_proj", "k_proj", "v_proj"))}
    with torch.no_grad():
        assert torch.allclose(block.run(0, readers, kept={norm: block.kept[norm] / scale}), block.run(0), atol=1e-5)
        replaced = {f"{name}.weight": weight for name, weight in readers.items()} | {norm: block.kept[norm] / scale}
    told = Transformed(replaced, dict.fromkeys(readers, scale)).stats(block.stats)
    fill = stream.model.fill
    stream.model.fill = lambda prefix: fill(prefix, replaced=replaced)  # type: ignore[method-assign]
    again = stream.measure(0, block.parts, NEEDS)
    for name in block.weights:
        assert again[name].gram is not None and again[name].inputs is not None
        assert torch.allclose(told[name].gram, again[name].gram, rtol=1e-3, atol=1e-4)
        assert torch.allclose(told[name].inputs, again[name].inputs, rtol=1e-3, atol=1e-4)
    assert len({id(told[name]) for name in readers}) == 1


def test_a_module_from_memory_is_one_block(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model.wrap(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    batches = [torch.randn(5, 6), torch.randn(2, 4, 6)]
    stream = Stream(model, batches, lambda rows: rows, tmp_path, lambda rows: rows)
    stream.aim(0)
    block = block_of(stream, 0)
    with torch.no_grad():
        for i, batch in enumerate(batches):
            assert torch.equal(block.inputs[i], batch)
            assert torch.equal(block.run(i), block.targets[i]) and block.targets[i].shape == (*batch.shape[:-1], 3)
        zero = block.run(0, {"2": torch.zeros(3, 8)})
    assert torch.equal(zero, block.kept["2.bias"].expand(5, 3))
    assert torch.equal(torch.rand(4, generator=block.generator()), torch.rand(4, generator=block.generator()))
