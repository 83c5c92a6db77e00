"""The native kernels against the reference, in every variant this processor has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import TailorbirdError, UsageError
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.kernels import native
from tailorbird.kernels.matrix import PackedMatrix, Run, fits

MODES: list[Any] = ["int8", "fp32"]


def laid_out(planes: BitPlanes) -> PackedMatrix:
    return PackedMatrix.from_arrays(planes.rows, planes.spec.bits, planes.spec.group_size, planes.arrays)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> float:
    """Error against float64, in units of what the sums would be if nothing cancelled."""
    x, weight = x.double(), weight.double()
    return float((found.double() - x @ weight.T).norm() / (x.abs() @ weight.abs().T).norm().clamp_min(1e-30))


def quantized(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """Activations as `int8` reads them: 127 steps to the largest magnitude of a group. In a wide group, whose largest
    magnitude is above 3.5 times the row's root mean square, 127 steps to that bound, or to a 256th of the largest."""
    grouped = x.view(x.shape[0], -1, group_size)
    largest = grouped.abs().amax(2, keepdim=True)
    bound = 3.5 * x.square().mean(1).sqrt()[:, None, None]
    reach = torch.where(largest > bound, torch.maximum(bound, largest / 256), largest)
    exact = grouped * torch.where(largest > 0, 127 / reach, 0.0)
    return (exact.round() * (reach / 127)).view_as(x)


@settings(max_examples=150)
@given(st.data(), st.integers(1, 40), st.integers(0, 2**31), st.integers(1, 40))
def test_every_variant_equals_the_reference(
    extension: Any, specs: Any, packed: Any, data: st.DataObject, rows: int, seed: int, n: int
) -> None:
    planes, _ = packed(rows, data.draw(specs()), seed)
    matrix, dense = laid_out(planes), planes.dequantize()
    x = normal(n, planes.spec.cols, seed=seed).pow(data.draw(st.sampled_from((1, 5))))  # some with outliers
    ids = torch.randint(0, rows, (2, 3), generator=torch.Generator().manual_seed(seed))
    first: dict[str, torch.Tensor] = {}
    for variant in extension.variants():
        extension.use_variant(variant)
        assert torch.equal(matrix.gather(ids), dense[ids])
        for mode in MODES:
            out = matrix.matmul(x, mode)
            assert torch.equal(out, first.setdefault(mode, out)), variant
            assert torch.equal(matrix.matmul(x[-1], mode), out[-1]), "a row's result depends on the others"
    assert relative(first["fp32"], x, dense) < 1e-6
    order = planes.arrays.get("column_order", torch.arange(planes.spec.cols)).long()
    assert relative(first["int8"], quantized(x[:, order], planes.spec.group_size), dense[:, order]) < 1e-6


@given(st.data(), st.integers(1, 40), st.integers(0, 2**31))
def test_the_stored_arrays_come_back(
    extension: Any, specs: Any, packed: Any, data: st.DataObject, rows: int, seed: int
) -> None:
    planes, _ = packed(rows, data.draw(specs()), seed)
    matrix = laid_out(planes)
    back = matrix.arrays()
    assert set(back) == set(planes.arrays)
    assert all(torch.equal(back[name], array) for name, array in planes.arrays.items())
    assert matrix.shape == planes.shape
    assert matrix.nbytes >= planes.nbytes - sum(a.nbytes for a in (planes.arrays.get("column_order"),) if a is not None)


@pytest.mark.parametrize("bits", range(1, 9))
def test_accuracy_of_both_kinds_of_activations(extension: Any, packed: Any, bits: int) -> None:
    """On rows of 1,024 columns, Gaussian and with outliers: what the documentation states."""
    planes, _ = packed(64, PlaneSpec.uniform(bits, 1024, 128, "none"), bits)
    dense, matrix = planes.dequantize(), laid_out(planes)
    outliers = normal(16, 1024)
    outliers[:, ::200] *= 40
    for x in (normal(16, 1024), outliers):
        exact = x.double() @ dense.double().T
        assert (matrix.matmul(x, "fp32").double() - exact).norm() < 2e-6 * exact.norm()
        assert (matrix.matmul(x, "int8").double() - exact).norm() < 8e-3 * exact.norm()
        rounded = quantized(x, 128).double() @ dense.double().T
        assert (matrix.matmul(x, "int8").double() - rounded).norm() < 2e-6 * exact.norm()


def test_extreme_codes_and_activations_do_not_saturate(extension: Any) -> None:
    for bits in (7, 8):
        run = Run(
            bits=bits, groups=[0], codes=torch.full((17, 64), 2**bits - 1, dtype=torch.uint8),
            scales=torch.ones(17, 1, dtype=torch.float16), zeros=torch.zeros(17, 1, dtype=torch.uint8),
        )  # fmt: skip
        matrix = PackedMatrix.from_runs(17, 1, 64, [run])
        for variant in extension.variants():
            extension.use_variant(variant)
            for n in (1, 5, 30):
                for sign in (1.0, -1.0):
                    out = matrix.matmul(torch.full((n, 64), sign * 127))
                    assert torch.equal(out, torch.full((n, 17), sign * 127 * 64 * (2**bits - 1)))


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.sampled_from((1, 2, 30)), st.integers(0, 2**31))
def test_signs_of_one_row(extension: Any, rows: int, sixteens: int, groups: int, outlier: int, seed: int) -> None:
    """What one row looks up, with other bits beside, is what several rows multiply: extremes and wide groups, too."""
    generator, size = torch.Generator().manual_seed(seed), 16 * sixteens

    def run(bits: int, mine: list[int]) -> Run:
        codes = torch.randint(0, 2**bits, (rows, len(mine) * size), generator=generator, dtype=torch.uint8)
        scales = torch.randint(1, 256, (rows, len(mine)), generator=generator, dtype=torch.uint8)
        return Run(bits=bits, groups=mine, codes=codes, scales=scales, row_scales=torch.rand(rows).half())

    runs = [run(1, list(range(groups))), run(1, [0]), run(2, [groups - 1])]
    matrix = PackedMatrix.from_runs(rows, groups, size, runs)
    extreme = torch.randint(0, 2, (1, groups * size), generator=generator) * 2.0 - 1.0
    x = torch.cat([normal(2, groups * size, seed=seed), extreme])
    x[:, ::29] *= outlier
    for variant in extension.variants():
        extension.use_variant(variant)
        together = matrix.matmul(x)
        for row, expected in zip(x, together, strict=True):
            assert torch.equal(matrix.matmul(row), expected), variant
            assert relative(matrix.matmul(row, "fp32")[None], row[None], matrix.gather(torch.arange(rows))) < 1e-6
    assert relative(together, quantized(x, size), matrix.gather(torch.arange(rows))) < 1e-6


@given(st.integers(1, 20), st.integers(1, 13), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_runs_over_the_same_columns_add_up(
    extension: Any, rows: int, group_size: int, groups: int, depth: int, seed: int
) -> None:
    """Residual binary: several one-bit weights; and split binary: some columns only in the second."""
    generator = torch.Generator().manual_seed(seed)
    weight, runs = torch.zeros(rows, groups * group_size), []
    for k in range(depth):
        mine = [g for g in range(groups) if k % 2 == 0 or g % 2 == 0]
        codes = torch.randint(0, 2, (rows, len(mine) * group_size), generator=generator, dtype=torch.uint8)
        scales = (torch.rand(rows, len(mine), generator=generator) + 0.1).half()
        runs.append(Run(bits=1, groups=mine, codes=codes, scales=scales))
        columns = torch.cat([torch.arange(group_size) + g * group_size for g in mine])
        weight[:, columns] += (codes - 0.5) * scales.float().repeat_interleave(group_size, 1)
    matrix = PackedMatrix.from_runs(rows, groups, group_size, runs)
    assert torch.allclose(matrix.gather(torch.arange(rows)), weight, rtol=0, atol=1e-6)
    x = normal(3, weight.shape[1], seed=seed)
    assert relative(matrix.matmul(x, "fp32"), x, weight) < 1e-6
    assert relative(matrix.matmul(x), x, weight) < 1e-2
    with pytest.raises(UsageError, match="no canonical arrays"):
        matrix.arrays()


@pytest.mark.parametrize(
    ("rows", "cols", "size", "n"), [(300, 8192, 64, 30), (33, 6000, 3000, 50), (1000, 96, 32, 1300)]
)
def test_larger_shapes(extension: Any, packed: Any, rows: int, cols: int, size: int, n: int) -> None:
    """Several chunks of columns, blocks of rows and pieces of tiles, with one thread and with three."""
    planes, _ = packed(rows, PlaneSpec.uniform(3, cols, size), 5)
    matrix, x, dense = laid_out(planes), normal(n, cols), planes.dequantize()
    found = []
    for threads in (1, 3):
        extension.set_threads(threads)
        found.append(matrix.matmul(x))
        assert torch.equal(matrix.gather(torch.arange(rows)), dense)
    assert torch.equal(*found)
    assert relative(found[0], x, dense) < 1e-2
    assert torch.equal(matrix.matmul(x[:4]), found[0][:4])


def test_what_is_not_finite_stays_in_its_row(extension: Any, packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    x = normal(3, 32)
    clean = matrix.matmul(x)
    x[0, 5], x[2, 9] = float("inf"), float("nan")
    for mode in MODES:
        out = matrix.matmul(x, mode)
        assert not out[0].isfinite().all() and out[2].isnan().all() and out[1].isfinite().all()
    assert torch.equal(matrix.matmul(x)[1], clean[1])
    tiny = torch.full((1, 32), 1e-42)
    assert torch.equal(matrix.matmul(tiny), torch.zeros(1, 20))
    assert torch.equal(matrix.matmul(torch.zeros(1, 32)), torch.zeros(1, 20))


def test_any_float_and_any_strides(extension: Any, packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    wide = normal(32, 3, 2)
    x = wide[:, :, 1].T
    assert not x.is_contiguous()
    out = matrix.matmul(x)
    assert torch.equal(out, matrix.matmul(x.contiguous()))
    assert matrix.matmul(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(matrix.matmul(x.double()).float(), out)
    assert torch.equal(matrix.matmul(x[0]), out[0])
    assert matrix.matmul(x[:0]).shape == (0, 20)
    assert matrix.matmul(torch.zeros(2, 0, 32)).shape == (2, 0, 20)
    assert matrix.gather(torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 2, 32)
    assert torch.equal(matrix.gather(torch.tensor(3, dtype=torch.int32)), matrix.gather(torch.tensor([3]))[0])


def test_misaligned_memory_is_refused(extension: Any, packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    raw = torch.zeros(4 * 32 + 4, dtype=torch.uint8)
    misaligned = torch.frombuffer(bytearray(4 * 32 + 4), dtype=torch.float32, count=32, offset=2)[None]
    assert misaligned.data_ptr() % 4 != raw.data_ptr() % 4
    with pytest.raises(UsageError, match="not aligned"):
        matrix.matmul(misaligned)


def test_stored_arrays_may_stand_anywhere(extension: Any, packed: Any) -> None:
    """Some loaders map files: halves at odd addresses, rows of a larger array."""
    planes, _ = packed(20, PlaneSpec.uniform(2, 32, 8, scale="fp16"), 1)
    arrays = dict(planes.arrays)
    raw = bytearray(b"?" + arrays["scales"].numpy().tobytes())
    arrays["scales"] = torch.frombuffer(raw, dtype=torch.float16, offset=1).view(20, 4)
    arrays["planes"] = torch.cat([arrays["planes"], arrays["planes"]], dim=1)[:, :8]
    assert arrays["scales"].data_ptr() % 2 and not arrays["planes"].is_contiguous()
    matrix = PackedMatrix.from_arrays(20, planes.spec.bits, 8, arrays)
    assert torch.equal(matrix.gather(torch.arange(20)), planes.dequantize())


def test_small_weights_outlive_those_they_stand_beside(extension: Any, packed: Any) -> None:
    """They share pages, more than one stretch of them here: some go, others come, and what stays is as it was."""
    spec = PlaneSpec.uniform(8, 512, 64)
    weights = [packed(3000 + 7 * k, spec, k)[0] for k in range(6)]
    matrices = {k: laid_out(weights[k % 6]) for k in range(14)}
    for k in range(0, 14, 3):
        del matrices[k]
    matrices |= {k: laid_out(weights[k % 6]) for k in range(14, 20)}
    assert sum(matrix.nbytes for matrix in matrices.values()) > 20e6
    for k, matrix in matrices.items():
        assert all(torch.equal(array, weights[k % 6].arrays[name]) for name, array in matrix.arrays().items())


def test_bad_arguments(extension: Any, packed: Any) -> None:
    matrix = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0])
    bad_x = (normal(2, 31), normal(2, 33), torch.ones(2, 32, dtype=torch.int64), torch.tensor(1.0))
    for x in (*bad_x, torch.empty(2, 32, device="meta")):
        with pytest.raises(UsageError, match="the weight is"):
            matrix.matmul(x)
    with pytest.raises(UsageError, match="'int8' or 'fp32'"):
        matrix.matmul(normal(1, 32), "int4")  # type: ignore[arg-type]
    for ids in ([-1], [20], [2**62], [0, -(2**63)]):
        with pytest.raises(IndexError, match="not a row"):
            matrix.gather(torch.tensor(ids))
    with pytest.raises(UsageError, match="ids are"):
        matrix.gather(torch.tensor([0.0]))


def test_the_extension_checks_what_it_gets(extension: Any, packed: Any) -> None:
    bare = laid_out(packed(20, PlaneSpec.uniform(2, 32, 8), 1)[0]).native
    x, out = normal(2, 32), torch.empty(2, 20)
    for a, b in (
        (x, out[:1]),
        (x.double(), out),
        (x, out.int()),
        (x, out.T),
        (x.T, out),
        (x, torch.empty(20)),
        (1, out),
    ):
        with pytest.raises((ValueError, TypeError)):
            bare.matmul(a, b, "int8")
    for ids, rows in (([0], torch.empty(2, 32)), ([[0]], torch.empty(1, 32)), ([0], torch.empty(1, 32).int())):
        with pytest.raises((ValueError, TypeError)):
            bare.gather(torch.tensor(ids), rows)


@given(st.data(), st.integers(1, 5))
def test_arrays_of_the_wrong_kind_are_refused(
    extension: Any, specs: Any, packed: Any, data: st.DataObject, rows: int
) -> None:
    planes, _ = packed(rows, data.draw(specs()), 0)
    name = data.draw(st.sampled_from(sorted(set(planes.arrays) - {"column_order"})))
    array = planes.arrays[name]
    # One-bit groups are symmetric: without others nobody looks at zero points.
    if name == "zeros" and set(planes.spec.bits) == {1}:
        return
    shorter = array[:-1] if array.dim() == 1 or array.shape[1] == 0 else array[:, :-1]
    for wrong in (shorter, array.to(torch.int16), array[None], array[:0]):
        with pytest.raises(UsageError):
            PackedMatrix.from_arrays(rows, planes.spec.bits, planes.spec.group_size, {**planes.arrays, name: wrong})


def test_shapes_that_can_not_be(extension: Any) -> None:
    codes, scales = torch.zeros(4, 8, dtype=torch.uint8), torch.ones(4, 2, dtype=torch.float16)

    def build(rows: int = 4, groups: int = 2, size: int = 4, **changes: Any) -> None:
        run = Run(**{"bits": 2, "groups": [0, 1], "codes": codes, "scales": scales, **changes})
        PackedMatrix.from_runs(rows, groups, size, [run])

    build()
    wrong: list[dict[str, Any]] = [
        {"rows": 5}, {"rows": 0}, {"groups": 1}, {"groups": 0}, {"size": 5}, {"size": 0}, {"groups": 2**40},
        {"bits": 9}, {"bits": 0}, {"groups": 2, "codes": codes.int()}, {"scales": scales.float()},
        {"scales": scales[:, :1]}, {"row_scales": torch.ones(4, dtype=torch.float16)},
        {"zeros": torch.zeros(4, 2, dtype=torch.uint8), "offsets": scales},
        {"zeros": torch.zeros(4, 1, dtype=torch.uint8)},
        {"offsets": scales, "row_offsets": torch.ones(4, dtype=torch.float16)}, {"offsets": scales.float()},
    ]  # fmt: skip
    for changes in wrong:
        with pytest.raises((UsageError, OverflowError)):
            build(**changes)
    with pytest.raises(UsageError):
        PackedMatrix.from_runs(4, 2, 4, [])
    with pytest.raises(UsageError, match="permutation"):
        order = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6], dtype=torch.int32)
        arrays = {"planes": torch.zeros(4, 2, dtype=torch.uint8), "scales": scales, "column_order": order}
        PackedMatrix.from_arrays(4, (2, 2), 4, arrays)


def test_rows_too_long_for_the_kernels_stay_with_the_reference(extension: Any) -> None:
    assert fits(32768, 32768) and not fits(32769, 32769) and not fits(1, 2**25)
    with pytest.raises(UsageError, match="32768"):
        codes = torch.zeros(1, 32769, dtype=torch.uint8)
        PackedMatrix.from_runs(1, 1, 32769, [Run(bits=1, groups=[0], codes=codes, scales=torch.ones(1, 1).half())])


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.kernels.matrix.extension", lambda: None)
    with pytest.raises(TailorbirdError, match="no native kernels"):
        PackedMatrix.from_runs(1, 1, 1, [])
    assert native.REFERENCE == "reference"
