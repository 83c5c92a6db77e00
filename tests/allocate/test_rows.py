"""Bits by rows: rows that are worth more have no fewer bits, and all bytes are used."""

from __future__ import annotations

import pytest
import torch

from tailorbird.allocate.rows import SLOPE, by_rows, fit_rows, ranked
from tailorbird.fit.groups import minmax
from tailorbird.fit.sweep import sweep
from tailorbird.formats import PlaneSpec, RowSpec

ROWS, COLS = 4096, 64


def form(bits: int) -> PlaneSpec:
    return PlaneSpec.uniform(bits, COLS, 32)


def zipf() -> torch.Tensor:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    return (1.0 / (1 + torch.arange(ROWS)) ** 2)[order]


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_bytes_are_kept_and_used(bits: int) -> None:
    limit = form(bits).plan(ROWS).nbytes
    spec = by_rows(zipf(), form, limit)
    assert spec is not None and spec.rows == ROWS
    assert 0.95 * limit < spec.plan(ROWS).nbytes <= limit
    assert [f.mean_bits for f in spec.formats] == sorted(f.mean_bits for f in spec.formats)


def test_a_factor_in_importance_is_a_bit() -> None:
    importance = 2.0 ** (-torch.arange(ROWS) * 24 / ROWS)
    spec = by_rows(importance, form, form(4).plan(ROWS).nbytes)
    assert spec is not None
    inner = spec.sizes[1:-1]
    assert all(abs(size - ROWS / (24 * SLOPE)) <= 2 for size in inner)


def test_rows_worth_most_are_in_the_class_of_most_bits() -> None:
    importance = zipf()
    spec = by_rows(importance, form, form(3).plan(ROWS).nbytes)
    assert spec is not None
    classes = ranked(importance, spec)
    assert torch.bincount(classes).tolist() == list(spec.sizes)
    for k in range(1, len(spec.sizes)):
        assert importance[classes == k].min() >= importance[classes == k - 1].max()
    assert torch.equal(ranked(None, RowSpec((3, 2), (form(2), form(4)))), torch.tensor([1, 1, 0, 0, 0]))


def test_rows_nobody_reads_have_the_fewest_bits() -> None:
    importance = torch.zeros(ROWS)
    importance[100:500] = 1.0
    spec = by_rows(importance, form, form(3).plan(ROWS).nbytes)
    assert spec is not None
    assert (ranked(importance, spec)[100:500] == len(spec.sizes) - 1).all()
    assert by_rows(torch.zeros(ROWS), form, form(3).plan(ROWS).nbytes) is not None


def test_where_two_classes_do_not_fit_there_are_none() -> None:
    assert by_rows(zipf(), form, form(1).plan(ROWS).nbytes) is None
    assert by_rows(zipf()[:4], form, form(2).plan(4).nbytes) is None


def test_classes_are_fitted_row_by_row() -> None:
    weight = torch.randn(40, COLS, generator=torch.Generator().manual_seed(1))
    spec = RowSpec((30, 10), (form(3), form(3)))
    classes = ranked(torch.rand(40, generator=torch.Generator().manual_seed(2)), spec)
    packed = fit_rows(weight, classes, spec, lambda rows, f: sweep(rows, f, minmax)).pack()
    assert packed.spec == spec
    assert torch.equal(packed.dequantize(), sweep(weight, form(3), minmax).pack().dequantize())


def test_few_rows_worth_little_do_not_fall_to_one_bit() -> None:
    # A few rows for every number of bits, and room for nearly eight bits everywhere.
    importance = torch.cat([torch.full((500,), 1e9), 1e9 * 2.0 ** -torch.linspace(1, 30, 12)])
    found = by_rows(importance, form, form(8).plan(len(importance)).nbytes - 64)
    assert found is None or min(f.mean_bits for f in found.formats) >= 6
