"""What every registered method keeps, built-in or installed: a new method is judged by this before its own oracles."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.artifact.manifest import weight_digest
from tailorbird.errors import UsageError
from tailorbird.formats import BitPlanes, Fit, PackedWeight, PlaneSpec
from tailorbird.formats.grid import Grid
from tailorbird.measure.block import Block
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method, group_of
from tailorbird.methods import find, methods
from tailorbird.methods.rtn import RTN
from tailorbird.tune.learn import block_loss

METHODS = pytest.mark.parametrize("kind", methods().values(), ids=methods())
# Rows and columns with and without divisors; one row; one group.
SHAPES = [(24, 128), (5, 96), (1, 40), (7, 70), (3, 31)]


def stats_of(layer: Any, kind: type[Method]) -> Stats:
    """What the method asked for and nothing more."""
    gram = layer.gram.clone() if "gram" in kind.needs else None
    return Stats(gram, layer.inputs.clone() if "inputs" in kind.needs else None, len(layer.inputs))


def part_of(kind: type[Method], shape: tuple[int, int]) -> Part:
    """A part for which the method takes the bits it is given."""
    return Part("w", shape, "head" if kind.own_format else "mlp")


def compress(layer: Any, method: Method, bits: int, part: Part | None = None) -> PackedWeight:
    part = part or part_of(type(method), tuple(layer.weight.shape))
    stats = stats_of(layer, type(method))
    spec = method.decide(layer.weight.clone(), stats, method.spec(part, bits))
    return method.fit(layer.weight.clone(), stats, spec).pack()


def objective(layer: Any, planes: BitPlanes, kind: type[Method]) -> float:
    """What the method works on: relative output error, or without data the mean error of the weights."""
    return float(layer.error(planes) if kind.needs else (planes.dequantize() - layer.weight).abs().mean())


def variants(kind: type[Method]) -> list[Method]:
    """The defaults and each switch thrown."""
    defaults = kind()
    switches = [name for name, value in defaults.options().items() if value is False]
    changes = [{}, {"scale": "fp16"}, *({name: True} for name in switches)]
    return [kind.from_options({"group_size": 32, **change}) for change in changes]


@METHODS
def test_it_says_what_it_is(kind: type[Method]) -> None:
    assert find(kind.name) is kind
    assert kind.title and kind.paper and kind.status
    assert kind.__doc__
    assert kind.needs <= {"gram", "inputs", "block", "reference"}
    assert "block" in kind.needs or (kind.tune is Method.tune and kind.transform is Method.transform)
    assert "reference" not in kind.needs or "block" in kind.needs


@METHODS
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_bytes_and_packing(kind: type[Method], shape: tuple[int, int], layer_of: Any) -> None:
    layer = layer_of(shape[1], shape[0], 150, [3])
    for method in variants(kind):
        for bits in (1, 2, 3, 4, 8):
            planned = method.spec(part_of(kind, shape), bits)
            assert planned.cols == shape[1] and planned.mean_bits == bits
            assert planned.group_size == group_of(shape[1], 32)
            planes = compress(layer, method, bits)
            assert planes.shape == shape
            assert planes.spec.kind in kind.kinds
            assert planes.nbytes <= planned.plan(shape[0]).nbytes
            assert planes.nbytes == planes.spec.plan(shape[0]).nbytes
            assert torch.isfinite(planes.dequantize()).all()
            again = planes.spec.read(shape[0], planes.arrays)
            assert torch.equal(again.dequantize(), planes.dequantize())


@METHODS
@pytest.mark.parametrize("bits", [1, 3])
def test_what_is_fitted_is_what_is_packed(kind: type[Method], bits: int, layer_of: Any) -> None:
    layer = layer_of(64, 10, 150, [3])
    for method in variants(kind):
        spec = method.spec(part_of(kind, (10, 64)), bits)
        fitted: Any = method.fit(layer.weight.clone(), stats_of(layer, kind), spec)
        planes = fitted.pack()
        assert weight_digest(fitted.meaning()) == weight_digest(planes.meaning())
        if not isinstance(planes, BitPlanes):
            continue
        assert torch.equal(planes.codes(), fitted.codes)
        size = planes.spec.group_size
        scale, offset = (value.repeat_interleave(size, 1) for value in fitted.grid.values())
        weight = fitted.codes.float() * scale + offset
        if fitted.column_order is not None:
            weight = weight[:, fitted.column_order.argsort()]
        assert torch.equal(planes.dequantize(), weight)
        scale, offset = Grid(planes.spec, planes.arrays).values()
        assert (scale > 0).all() and torch.isfinite(offset).all()


@METHODS
def test_the_same_input_gives_the_same_bytes(kind: type[Method], layer_of: Any) -> None:
    layer = layer_of(128, 24, 300, [3, 70])
    for method in variants(kind):
        torch.manual_seed(1)
        one = compress(layer, method, 3)
        torch.manual_seed(2)
        other = compress(layer, method, 3)
        assert one.spec == other.spec
        assert all(torch.equal(one.arrays[name], other.arrays[name]) for name in one.arrays)


@METHODS
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_no_worse_than_rounding(kind: type[Method], bits: int, layer_of: Any) -> None:
    for seed, channels in enumerate(([70, 71, 72], [1, 40, 90, 120], [])):
        layer = layer_of(128, 48, 500, channels, seed)
        for method in variants(kind):
            rounding = RTN(group_size=method.group_size, scale=method.scale, symmetric=method.symmetric)
            ours, plain = (objective(layer, compress(layer, one, bits), kind) for one in (method, rounding))
            assert ours <= 1.02 * plain


@METHODS
def test_more_bits_lose_less(kind: type[Method], layer_of: Any) -> None:
    layer = layer_of(128, 24, 300, [3, 70])
    errors = [layer.error(compress(layer, kind(group_size=32), bits)) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


@METHODS
def test_mixed_formats_of_an_edited_plan_are_fitted_as_they_are(kind: type[Method], layer_of: Any) -> None:
    layer = layer_of(96, 6, 200, [3])
    spec = PlaneSpec((2, 8, 1, 4), 24, "float", "fp16")
    planes = kind().fit(layer.weight.clone(), stats_of(layer, kind), spec).pack()
    assert planes.spec == spec


def tuned(block: Block, method: Method, bits: int) -> dict[str, Fit]:
    """A block's parts as the pipeline has them fitted."""
    specs = {
        part.name: method.decide(block.weights[part.name], block.stats[part.name], method.spec(part, bits))
        for part in block.parts
    }
    found = dict(method.tune(block, specs)) if "block" in method.needs else {}
    for name, spec in specs.items():
        if name not in found:
            found[name] = method.fit(block.weights[name].clone(), block.stats[name], spec)
        assert found[name].pack().spec == spec
    return found


@torch.no_grad()
def lost(block: Block, fitted: dict[str, Fit], kind: type[Method]) -> float:
    """What the method works on: the error of the block's outputs, or without data that of its weights."""
    weights = {name: one.pack().dequantize() for name, one in fitted.items()}
    if not kind.needs:
        return sum(float((weight - block.weights[name]).abs().mean()) for name, weight in weights.items())
    return sum(float(block_loss(block, i, weights)) for i in range(len(block.inputs)))


BITS = [kind for kind in methods().values() if not kind.own_format]


@pytest.mark.parametrize("kind", BITS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("bits", [2, 4])
def test_a_block_loses_no_more_than_by_rounding(kind: type[Method], bits: int, block_of: Any) -> None:
    method, block = kind(group_size=16), block_of()
    before = {name: weight.clone() for name, weight in block.weights.items()}
    found = tuned(block, method, bits)
    assert all(torch.equal(before[name], weight) for name, weight in block.weights.items())
    assert lost(block, found, kind) <= 1.02 * lost(block, tuned(block, RTN(group_size=16), bits), kind)
    assert all(weight_digest(one.pack().meaning()) == weight_digest(one.meaning()) for one in found.values())
    torch.manual_seed(3)
    again = tuned(block, method, bits)
    assert all(weight_digest(again[name].meaning()) == weight_digest(one.meaning()) for name, one in found.items())


@METHODS
def test_a_transform_changes_no_output(kind: type[Method], block_of: Any) -> None:
    block = block_of()
    replaced = kind().transform(block).tensors
    weights = {name: replaced[f"{name}.weight"] for name in block.weights if f"{name}.weight" in replaced}
    kept = {name: tensor for name, tensor in replaced.items() if name in block.kept}
    assert len(weights) + len(kept) == len(replaced)
    for i in range(len(block.inputs)):
        assert torch.allclose(block.run(i, weights, kept=kept), block.run(i), rtol=1e-4, atol=1e-4)


OWN = pytest.mark.parametrize("kind", [kind for kind in methods().values() if kind.own_format], ids=lambda k: k.name)


@OWN
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_formats_of_a_methods_own(kind: type[Method], shape: tuple[int, int], layer_of: Any) -> None:
    """Inside the blocks the format does not follow the bits of the budget; everything else holds."""
    layer, part = layer_of(shape[1], shape[0], 150, [3]), Part("w", shape, "mlp")
    for method in variants(kind):
        spec = method.spec(part, 1)
        assert all(method.spec(part, bits) == spec for bits in range(2, 9)) and spec.kind in kind.kinds
        one, other = (compress(layer, method, 4, part) for _ in range(2))
        assert one.shape == shape and one.nbytes == spec.plan(shape[0]).nbytes
        assert weight_digest(one.meaning()) == weight_digest(other.meaning())
        assert torch.equal(one.spec.read(shape[0], one.arrays).dequantize(), other.dequantize())
        rounding = RTN(group_size=method.group_size, scale=method.scale)
        assert layer.error(one) <= 1.02 * layer.error(compress(layer, rounding, 1))


@METHODS
def test_options_round_trip(kind: type[Method]) -> None:
    for method in variants(kind):
        options = method.options()
        assert kind.from_options(options) == method
        assert kind.from_options(json.loads(json.dumps(options))) == method
        assert kind.from_options({name: str(value) for name, value in options.items()}) == method


@METHODS
def test_options_it_has_not(kind: type[Method]) -> None:
    with pytest.raises(UsageError, match="'colour'") as caught:
        kind.from_options({"colour": "red"})
    assert all(name in caught.value.hint for name in kind().options())
    for name, value in kind().options().items():
        for bad in ([], None, {}, "no such value"):
            with pytest.raises(UsageError) as caught:
                kind.from_options({name: bad})
            assert name in caught.value.message and caught.value.hint, (name, value)


@METHODS
@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "x", "1.5"])
def test_a_group_size_must_be_a_positive_integer(kind: type[Method], bad: Any) -> None:
    with pytest.raises(UsageError, match="group_size"):
        kind.from_options({"group_size": bad})
