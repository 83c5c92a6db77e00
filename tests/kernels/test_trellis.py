"""Paths through a trellis: the definition against a loop, the native kernels against the definition, and the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import UsageError
from tailorbird.fit.hessian import damped, sweep_factor
from tailorbird.formats import TrellisCodes, TrellisSpec
from tailorbird.formats.grid import Grid
from tailorbird.kernels import trellis
from tailorbird.kernels.matrix import PackedMatrix
from tailorbird.kernels.trellis import DEVIATION, STATE, UNIT, codes, column_bits, row_bytes, search
from tailorbird.kernels.trellis_tables import TABLES


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(rows: int, spec: TrellisSpec, seed: int) -> TrellisCodes:
    generator = torch.Generator().manual_seed(seed)
    stream = torch.randint(0, 256, (rows, row_bytes(spec.halves, spec.group_size)), generator=generator)
    scale = torch.rand(rows, len(spec.halves), generator=generator) + 0.1
    return TrellisCodes.pack(stream.to(torch.uint8), Grid.store(scale, scale, spec.grid), spec)


specs = st.builds(
    TrellisSpec, st.lists(st.integers(2, 8), min_size=1, max_size=5).map(tuple), st.sampled_from([16, 32, 48, 64]),
    st.sampled_from(["fp16", "u8"]),
)  # fmt: skip


def spelled(stream: list[int], halves: tuple[int, ...], group_size: int) -> list[int]:
    """One row, bit by bit: the definition in the format's documentation."""
    bits = [0] * STATE + [byte >> k & 1 for byte in stream for k in range(8)]
    found, end = [], STATE
    for column in range(len(halves) * group_size):
        half = halves[column // group_size]
        end += half // 2 if column % 2 == 0 else -(-half // 2)
        table = TABLES[half - 2]
        if half <= 4:
            found.append(table[sum(bits[end - 7 + k] << k for k in range(7))])
            continue
        older, newer = (sum(bits[end - STATE + a + k] << k for k in range(6)) for a in (0, 6))
        found.append(table[older] + table[64 + newer])
    assert end == len(bits)
    return found


@given(specs, st.integers(0, 2**31))
def test_codes_are_what_the_documentation_says(spec: TrellisSpec, seed: int) -> None:
    weight = packed(2, spec, seed)
    stream = weight.arrays["stream"]
    found = codes(stream, spec.halves, spec.group_size)
    assert found.dtype == torch.int8
    assert found.tolist() == [spelled(row, spec.halves, spec.group_size) for row in stream.tolist()]


def test_tables_stay_within_a_byte() -> None:
    assert len(TABLES) == 7 and all(len(table) == 128 for table in TABLES)
    for table in TABLES[:3]:
        assert min(table) >= -127 and max(table) <= 127
    for table in TABLES[3:]:
        assert max(table[:64]) + max(table[64:]) <= 127 and min(table[:64]) + min(table[64:]) >= -127


@settings(max_examples=60)
@given(st.integers(1, 40), specs, st.integers(0, 2**31), st.integers(1, 30), st.sampled_from([1, 5]))
def test_every_variant_equals_the_reference(
    extension: Any, rows: int, spec: TrellisSpec, seed: int, n: int, power: int
) -> None:
    weight = packed(rows, spec, seed)
    matrix, dense = weight.lay_out(PackedMatrix), weight.dequantize()
    assert matrix.shape == weight.shape and matrix.nbytes >= weight.nbytes
    assert all(torch.equal(array, weight.arrays[name]) for name, array in matrix.arrays().items())
    x = normal(n, spec.cols, seed=seed % 1000).pow(power)  # some with outliers
    ids = torch.randint(0, rows, (2, 3), generator=torch.Generator().manual_seed(seed))
    first: dict[str, torch.Tensor] = {}
    for variant in extension.variants():
        extension.use_variant(variant)
        assert torch.equal(matrix.gather(ids), dense[ids])
        modes: list[Any] = ["int8", "fp32"]
        for mode in modes:
            out = matrix.matmul(x, mode)
            assert torch.equal(out, first.setdefault(mode, out)), variant
            assert torch.equal(matrix.matmul(x[:1], mode), out[:1])
            lost = (out - x @ dense.T).norm() / (x.abs() @ dense.abs().T).norm()
            assert lost < (8e-3 if mode == "int8" else 2e-6)


def test_what_the_kernels_refuse(extension: Any) -> None:
    spec = TrellisSpec((4, 6), 32)
    weight = packed(5, spec, 1)
    for change in (
        {"stream": weight.arrays["stream"][:, :-1].contiguous()}, {"scales": weight.arrays["scales"][:4]},
        {"row_scales": weight.arrays["row_scales"][:4]}, {"scales": weight.arrays["scales"].half()},
        {"stream": weight.arrays["stream"].to(torch.int16)}, {"stream": weight.arrays["stream"].T},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            trellis.TrellisMatrix.from_stream(spec.halves, spec.group_size, dict(weight.arrays) | change)
    for halves, size in (((1, 6), 32), ((9, 6), 32), ((4, 6), 24), ((), 32)):
        with pytest.raises(UsageError):
            trellis.TrellisMatrix.from_stream(halves, size, weight.arrays)
    w, upper = normal(3, 64), torch.eye(64)
    for beam, factor in ((0, upper), (257, upper), (4, upper[:32])):
        with pytest.raises(UsageError):
            search(w, torch.ones(3, 2), factor, spec.halves, 32, beam)


def lost(stream: torch.Tensor, weight: torch.Tensor, halves: tuple[int, ...], gram: torch.Tensor) -> float:
    error = codes(stream, halves, weight.shape[1] // len(halves)).float() / DEVIATION - weight
    return float((error @ gram * error).sum() / (weight @ gram * weight).sum())


@pytest.mark.parametrize("halves", [2, 3, 4, 7])
@pytest.mark.parametrize("cols", [16, 48, 160])
def test_the_search_loses_as_little_as_the_plain_one(
    halves: int, cols: int, extension: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = normal(24, cols, seed=1), normal(400, cols, seed=2) * torch.linspace(0.3, 2, cols)
    x = x + x.roll(1, 1)
    gram, (upper, _) = damped(x.T @ x, 0.01)[0], sweep_factor(x.T @ x)
    count, scale = (halves,) * (cols // UNIT), torch.full((24, cols // UNIT), 1 / DEVIATION)
    found = search(weight, scale, upper, count, UNIT, 32)
    again = search(weight, scale, upper, count, UNIT, 32)
    monkeypatch.setattr(trellis, "extension", lambda: None)
    plain = search(weight, scale, upper, count, UNIT, 32)
    greedy = search(weight, scale, upper, count, UNIT, 1)
    assert torch.equal(found, again)
    ours, theirs = lost(found, weight, count, gram), lost(plain, weight, count, gram)
    assert ours <= 1.1 * theirs and theirs < 0.7 * lost(greedy, weight, count, gram)


def test_weights_that_are_no_numbers_are_survived(extension: Any) -> None:
    weight = normal(3, 96)
    weight[1, 40] = torch.nan
    stream = search(weight, torch.full((3, 2), 1 / DEVIATION), torch.eye(96), (4, 5), 48, 16)
    alone = search(weight[:1], torch.full((1, 2), 1 / DEVIATION), torch.eye(96), (4, 5), 48, 16)
    assert torch.equal(stream[:1], alone)


def test_bits_of_columns() -> None:
    assert column_bits((2, 3, 8), 4).tolist() == [1, 1, 1, 1, 1, 2, 1, 2, 4, 4, 4, 4]
    assert row_bytes((2, 3, 8), 32) == 2 * 13
