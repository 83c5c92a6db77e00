"""Triton kernels over bit planes: products with few and with many rows of activations, and rows by index.

Imported by `triton_matrix` alone, once it found Triton. Under ``TRITON_INTERPRET=1`` Triton runs
the same functions on the CPU, one operation of NumPy at a time.

A word is 32 neighbouring columns of one plane. All kernels take one word of every plane of R rows at a time: the
planes stand in memory as (words, planes, rows), so neighbouring threads read neighbouring words.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import tensor

# Rows of the weight a program computes, warps, stages: what is tried at the first product of a shape.
TILES = ((32, 1, 2), (32, 4, 3), (64, 2, 3), (64, 4, 3), (128, 4, 3), (128, 8, 3))
INTERPRETED = bool(triton.knobs.runtime.interpret)
# Activations of these are multiplied as they are. The interpreter's products of bfloat16 are wrong.
DTYPES = (torch.float32, torch.float16) if INTERPRETED else (torch.float32, torch.float16, torch.bfloat16)
_FEW = 8  # rows of activations that are multiplied without tensor cores
_WIDEST = 128  # rows of activations a program computes at most
_LEAST_WORDS = 4  # a program does not get less than this
_LOOKED_UP = 4  # rows by index in one program


@triton.jit
def _codes(words: tensor, word: tensor, row: tensor, inside: tensor, rows: tensor, BITS: tl.constexpr) -> tensor:
    """Codes of one word of columns, float32 (R, 32): bit k of every plane belongs to column k."""
    at = words + tl.cast(word, tl.int64) * BITS * rows + row
    lane = tl.arange(0, 32)
    plane = tl.load(at, mask=inside, other=0)
    codes = (plane[:, None] >> lane[None, :]) & 1
    for p in tl.static_range(1, BITS):
        plane = tl.load(at + p * rows, mask=inside, other=0)
        codes |= ((plane[:, None] >> lane[None, :]) & 1) << p
    return codes.to(tl.float32)


@triton.jit
def _affine(
    scales: tensor, row_scales: tensor, zeros: tensor, offsets: tensor, row_offsets: tensor,
    group: tensor, row: tensor, inside: tensor, rows: tensor, MIDDLE: tl.constexpr,
) -> tuple[tensor, tensor]:  # fmt: skip
    """Scale and offset of one group, float32 (R,) each, with the roundings of the format's definition."""
    at = tl.cast(group, tl.int64) * rows + row
    scale = tl.load(scales + at, mask=inside, other=0).to(tl.float32)
    if row_scales is not None:
        scale *= tl.load(row_scales + row, mask=inside, other=0).to(tl.float32)
    if offsets is not None:
        offset = tl.load(offsets + at, mask=inside, other=0).to(tl.float32)
        if row_offsets is not None:
            offset *= tl.load(row_offsets + row, mask=inside, other=0).to(tl.float32)
    elif zeros is not None:
        offset = -scale * tl.load(zeros + at, mask=inside, other=0).to(tl.float32)
    else:
        offset = -scale * MIDDLE
    return scale, offset


@triton.jit
def _columns(columns: tensor, word: tensor) -> tensor:
    """Columns of the weight in one word, int32 (32,); past the last column where there is none."""
    slot = word * 32 + tl.arange(0, 32)
    if columns is not None:
        slot = tl.load(columns + slot)
    return slot


@triton.jit
def _matmul(
    x: tensor, out: tensor, words: tensor, columns: tensor, scales: tensor, row_scales: tensor, zeros: tensor,
    offsets: tensor, row_offsets: tensor, n: tensor, cols: tensor, rows: tensor, count: tensor, share: tensor,
    group_words: tensor,
    BITS: tl.constexpr, MIDDLE: tl.constexpr, N: tl.constexpr, DOT: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (i, j, k): `out[k, N * j :, R * i :]`, the product over the k-th share of the words."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    mine = (tl.program_id(1) * N + tl.arange(0, N)).to(tl.int64)
    part = tl.program_id(2)
    inside = row < rows
    total = tl.zeros([R, N], dtype=tl.float32)
    first = part * share
    for word in range(first, min(first + share, count)):
        column = _columns(columns, word)
        wanted = (column < cols)[:, None] & (mine < n)[None, :]
        inputs = tl.load(x + mine[None, :] * cols + column[:, None], mask=wanted, other=0.0)
        codes = _codes(words, word, row, inside, rows, BITS)
        scale, offset = _affine(
            scales, row_scales, zeros, offsets, row_offsets, word // group_words, row, inside, rows, MIDDLE
        )
        if DOT:
            weight = (codes * scale[:, None] + offset[:, None]).to(inputs.dtype)
            total = tl.dot(weight, inputs, total, input_precision="ieee")
        else:
            inputs = inputs.to(tl.float32)
            total += scale[:, None] * tl.sum(codes[:, :, None] * inputs[None, :, :], axis=1)
            total += offset[:, None] * tl.sum(inputs, axis=0)[None, :]
    at = out + (part * n + mine)[None, :] * rows + row[:, None]
    tl.store(at, total, mask=inside[:, None] & (mine < n)[None, :])


@triton.jit
def _gather(
    ids: tensor, out: tensor, words: tensor, columns: tensor, scales: tensor, row_scales: tensor, zeros: tensor,
    offsets: tensor, row_offsets: tensor, n: tensor, cols: tensor, rows: tensor, group_words: tensor,
    BITS: tl.constexpr, MIDDLE: tl.constexpr, R: tl.constexpr,
) -> None:  # fmt: skip
    """Program (i, k): adds word k of the rows that `ids[R * i :]` name to `out`."""
    mine = (tl.program_id(0) * R + tl.arange(0, R)).to(tl.int64)
    word = tl.program_id(1)
    row = tl.load(ids + mine, mask=mine < n, other=-1)
    inside = (row >= 0) & (row < rows)
    scale, offset = _affine(
        scales, row_scales, zeros, offsets, row_offsets, word // group_words, row, inside, rows, MIDDLE
    )
    weight = _codes(words, word, row, inside, rows, BITS) * scale[:, None] + offset[:, None]
    column = _columns(columns, word)
    at = out + mine[:, None] * cols + column[None, :]
    wanted = inside[:, None] & (column < cols)[None, :]
    tl.store(at, tl.load(at, mask=wanted, other=0.0) + weight, mask=wanted)


def fitting(configs: list[Any], arguments: dict[str, Any], *, N: int, DOT: bool, **rest: Any) -> list[Any]:
    """The tiles whose products fit into registers: without tensor cores there are 32 of them for every sum."""
    return [config for config in configs if DOT or config.kwargs["R"] * N <= 64 * config.num_warps]


CONFIGS = [triton.Config({"R": rows}, num_warps=warps, num_stages=stages) for rows, warps, stages in TILES]
_tuned = triton.autotune(
    [triton.Config({"R": 16})] if INTERPRETED else CONFIGS,
    key=["rows", "BITS", "N"],
    prune_configs_by={"early_config_prune": fitting},
)(_matmul)


def width(n: int) -> int:
    """Rows of activations in a program, a power of two; above `_FEW` what tensor cores take at once."""
    power = 1 << max(n - 1, 0).bit_length()
    return power if n <= _FEW else min(max(power, 16), _WIDEST)


def share(rows: int, count: int, n: int, processors: int) -> int:
    """Words for one program so that a product with n rows of activations keeps all processors of a GPU busy.

    Args:
        rows: rows of the weight.
        count: words in a row.
        n: rows of activations.
        processors: streaming multiprocessors.
    """
    programs = triton.cdiv(rows, 64) * triton.cdiv(n, width(n))
    parts = min(triton.cdiv(2 * processors, programs), max(count // _LEAST_WORDS, 1))
    return int(triton.cdiv(count, parts))


def matmul(x: Tensor, out: Tensor, words: Tensor, *grid: Tensor | None, words_each: int, **run: Any) -> None:
    """Multiply with one run of bit planes.

    Args:
        x: contiguous (n, cols).
        out: contiguous (parts, n, rows), a part for every `words_each` words; overwritten.
        words: int32 (words, planes, rows).
        grid: columns, scales, row scales, zeros, offsets, row offsets; none where there are none.
        words_each: words a program takes, see `share`.
        run: ``group_words`` (words in a group), ``BITS``, ``MIDDLE`` (zero point where none is stored).
    """
    (n, cols), (count, _, rows), wide = x.shape, words.shape, width(x.shape[0])

    def blocks(tile: Any) -> tuple[int, int, int]:
        return triton.cdiv(rows, tile["R"]), triton.cdiv(n, wide), out.shape[0]

    _tuned[blocks](
        x, out, words, *grid, n, cols, rows, count, words_each, **run, N=wide, DOT=n > _FEW
    )  # fmt: skip


def gather(ids: Tensor, out: Tensor, words: Tensor, *grid: Tensor | None, **run: Any) -> None:
    """Add the rows that `ids` (n,) names to `out`, float32 (n, cols); an id that is no row adds nothing.

    The other arguments are those of `matmul`.
    """
    count, _, rows = words.shape
    blocks = (triton.cdiv(len(ids), _LOOKED_UP), count)
    # Not fused: two roundings, as the reference.
    _gather[blocks](
        ids, out, words, *grid, len(ids), out.shape[1], rows, **run, R=_LOOKED_UP, enable_fp_fusion=False
    )  # fmt: skip
