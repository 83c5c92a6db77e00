"""The blocked sweep against the plain one, its error identity, and what must not matter to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.fit import sweep as module
from tailorbird.fit.groups import minmax
from tailorbird.fit.hessian import sweep_factor
from tailorbird.fit.search import RangeSearch
from tailorbird.fit.sweep import Fitted, sweep
from tailorbird.formats import PlaneSpec

# (columns, group size): inside a block, across blocks, as large as the row, primes, nothing dividing 128.
SHAPES = [
    (32, 4), (128, 128), (96, 48), (256, 32), (256, 256), (384, 96), (400, 200), (262, 131), (300, 50), (131, 131),
    (105, 7), (17, 17), (640, 320), (130, 10),
]  # fmt: skip


def same_fit(a: Fitted, b: Fitted) -> bool:
    arrays = set(a.grid.arrays) == set(b.grid.arrays) and all(
        torch.equal(a.grid.arrays[name], b.grid.arrays[name]) for name in a.grid.arrays
    )
    return arrays and torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("static", [False, True], ids=["moving", "static"])
@pytest.mark.parametrize(("cols", "size"), SHAPES, ids=str)
def test_blocked_equals_the_plain_loop(
    layer_of: Any, naive: SimpleNamespace, cols: int, size: int, static: bool
) -> None:
    layer = layer_of(cols, 9, 2 * cols, [cols // 3], seed=cols)
    for spec in (
        PlaneSpec.uniform(3, cols, size, "integer", "fp16"),
        PlaneSpec.uniform(4, cols, size, "float", "u8"),
        PlaneSpec.uniform(1, cols, size, "none", "u8"),
    ):
        upper, _ = sweep_factor(layer.gram)
        fitted = sweep(layer.weight, spec, minmax, upper, static)
        codes, stored, error = naive.naive_sweep(layer.weight, layer.gram, spec, static=static)
        # A weight that falls between two codes to within float32 may go either way, and its row differs from there on.
        same = (fitted.codes == codes).all(1)
        assert same.float().mean() >= 8 / 9, spec
        assert torch.allclose(fitted.pack().dequantize()[same], stored[same], rtol=1e-5, atol=1e-6)
        assert fitted.error == pytest.approx(error, rel=2e-2 if not same.all() else 1e-4)


@pytest.mark.parametrize("static", [False, True], ids=["moving", "static"])
def test_mixed_bits_and_searched_ranges_equal_the_plain_loop(
    layer_of: Any, naive: SimpleNamespace, static: bool
) -> None:
    layer = layer_of(192, 12, 400, [70, 71])
    search = RangeSearch([0.8, 0.9, 1.1])
    spec = PlaneSpec((2, 1, 3, 8, 2, 4), 32, "integer", "fp16")
    upper, _ = sweep_factor(layer.gram)
    fitted = sweep(layer.weight, spec, search, upper, static)
    codes, _, _ = naive.naive_sweep(layer.weight, layer.gram, spec, search, static=static)
    assert (fitted.codes == codes).all(1).float().mean() >= 11 / 12


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("offset", ["none", "integer", "float"])
def test_without_correlations_it_rounds(layer_of: Any, bits: int, offset: Any) -> None:
    layer = layer_of(96, 40, 100, [])
    spec = PlaneSpec.uniform(bits, 96, 16, offset, "fp16")
    upper, _ = sweep_factor(torch.eye(96))
    rounded = sweep(layer.weight, spec, minmax)
    assert same_fit(sweep(layer.weight, spec, minmax, upper), rounded)
    # With 8-bit scales a moving group keeps some headroom, a static one has the very scales of rounding.
    spec = PlaneSpec.uniform(bits, 96, 16, offset, "u8")
    assert same_fit(sweep(layer.weight, spec, minmax, upper, True), sweep(layer.weight, spec, minmax))
    assert rounded.error == 0


@pytest.mark.parametrize("static", [False, True], ids=["moving", "static"])
@pytest.mark.parametrize("ordered", [False, True], ids=["plain", "act-order"])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_error_is_the_loss_under_the_damped_hessian(
    layer_of: Any, naive: SimpleNamespace, bits: int, ordered: bool, static: bool
) -> None:
    layer = layer_of(160, 30, 500, [3, 77])
    order = layer.gram.diagonal().argsort(descending=True) if ordered else torch.arange(160)
    upper, _ = sweep_factor(layer.gram[order][:, order])
    spec = PlaneSpec((bits,) * 5, 32, column_order=ordered and not static)
    fitted = sweep(layer.weight, spec, minmax, upper, static, order if ordered else None)
    lost = (fitted.pack().dequantize() - layer.weight).double()
    loss = float((lost @ naive.damped(layer.gram, 0.01) * lost).sum())
    assert fitted.error == pytest.approx(loss, rel=1e-4)


def test_chunks_of_rows_do_not_matter(layer_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(96, 50, 300, [5])
    upper, _ = sweep_factor(layer.gram)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    shuffled, _ = sweep_factor(layer.gram[order][:, order])

    def fits() -> list[Fitted]:
        plain = PlaneSpec.uniform(3, 96, 24)
        stored = PlaneSpec((3,) * 4, 24, column_order=True)
        return [
            sweep(layer.weight, plain, minmax),
            sweep(layer.weight, plain, RangeSearch([0.9, 1.05]), upper),
            sweep(layer.weight, plain, minmax, shuffled, True, order),
            sweep(layer.weight, stored, minmax, shuffled, False, order),
        ]

    whole = fits()
    for chunk in (1, 16, 49):
        monkeypatch.setattr(module, "ROW_CHUNK", chunk)
        for one, other in zip(whole, fits(), strict=True):
            # Products of few rows may add up in another order: a tie may fall the other way, nothing more.
            assert (one.codes == other.codes).float().mean() > 0.995
            assert one.error == pytest.approx(other.error, rel=1e-3)
            assert one.codes.shape == other.codes.shape
            shapes = [{n: a.shape for n, a in fitted.grid.arrays.items()} for fitted in (one, other)]
            assert shapes[0] == shapes[1]


def test_dead_columns_cost_nothing(layer_of: Any) -> None:
    layer = layer_of(64, 20, 300, [])
    dead = torch.tensor([0, 17, 40, 63])
    gram = layer.gram.clone()
    gram[dead], gram[:, dead] = 0, 0
    upper, found = sweep_factor(gram)
    assert found.nonzero().flatten().tolist() == dead.tolist()
    assert torch.isfinite(upper).all()
    weight = layer.weight.clone()
    weight[:, found] = 0
    fitted = sweep(weight, PlaneSpec.uniform(3, 64, 16), minmax, upper)
    assert fitted.pack().dequantize()[:, found].abs().max() == 0


def test_a_wholly_dead_layer_is_stored_as_zeros() -> None:
    upper, dead = sweep_factor(torch.zeros(8, 8))
    assert dead.all()
    fitted = sweep(torch.zeros(3, 8), PlaneSpec.uniform(2, 8, 4), minmax, upper)
    assert fitted.pack().dequantize().abs().max() == 0


@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(["none", "integer", "float"]), st.integers(1, 8))
def test_any_weight_gives_finite_codes(cols: int, seed: int, offset: Any, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, cols, generator=generator) * 10.0 ** torch.randint(-6, 4, (3, 1), generator=generator)
    weight[1] = weight[1, :1]
    weight[2] = 0
    inputs = torch.randn(max(1, cols // 2), cols, generator=generator)
    upper, _ = sweep_factor(inputs.T @ inputs)
    for scale in ("u8", "fp16"):
        fitted = sweep(weight, PlaneSpec.uniform(bits, cols, cols, offset, scale), minmax, upper)
        assert torch.isfinite(fitted.pack().dequantize()).all()
        assert int(fitted.codes.max()) < 2**bits


@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (5, 32), (5, 1)])
def test_the_weight_given_is_not_changed(layer_of: Any, rows: int, cols: int) -> None:
    layer = layer_of(cols, rows, 100, [])
    before = layer.weight.clone()
    upper, _ = sweep_factor(layer.gram)
    sweep(layer.weight, PlaneSpec.uniform(2, cols, cols), minmax, upper)
    assert torch.equal(layer.weight, before)
