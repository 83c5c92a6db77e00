"""Bits by group inside one weight: more for salient groups at the same average (SliM-LLM, arXiv 2405.14917).

Salience of a group is the mean of w^2 / d. d is the squared diagonal of U, the sweep's own factor of H^-1 = U^T U, as
in the released code: (w - q)^2 / U_jj^2 is what the sweep loses at column j, when earlier columns are fixed and later
ones make up for it. The paper's d, the squared diagonal of H^-1, lets every column make up for every other; it ranks
groups at the end of a row too low, and bits taken from those are lost for good (``inverse``; on planted layers it gives
a quarter more error).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from tailorbird.fit.rounding import CHUNK, rounded
from tailorbird.formats import BitPlanes, PlaneSpec
from tailorbird.formats.spec import MAX_BITS

Diagonal = Literal["cholesky", "inverse"]
FLOOR = 1e-6
OUTPUTS = 2**26  # outputs compared at once; a head of 262,144 rows gets 256 tokens


def salient_bits(
    weight: Tensor,
    inputs: Tensor,
    upper: Tensor,
    spec: PlaneSpec,
    diagonal: Diagonal = "cholesky",
    released: bool = False,
) -> PlaneSpec:
    """`spec` with bits dealt out by salience, then as many pairs of groups changed as lower the divergence of outputs.

    Args:
        weight: float32 (rows, cols).
        inputs: tokens, float32 (tokens, cols).
        upper: the sweep's factor U, (cols, cols).
        spec: the bits to deal out.
        diagonal: what salience divides by.
        released: uniform bits are no candidate.
    """
    order = salience(weight, upper, spec.group_size, diagonal).argsort(stable=True).tolist()
    spec = ranked(spec, order)
    divergence = scan(weight, inputs, spec, order)
    candidates = [mixed(spec, order, i) for i in range(len(divergence))]
    # Bits of one width fill whole bytes, so that odd groups can cost more in another mixture.
    possible = [i for i, found in enumerate(candidates) if _row_bytes(found) <= _row_bytes(spec)]
    if released:
        possible = possible[1:] or possible
    return candidates[min(possible, key=divergence.__getitem__)]


def salience(weight: Tensor, upper: Tensor, group_size: int, diagonal: Diagonal = "cholesky") -> Tensor:
    """Salience of every group, float32 (groups,).

    Args:
        weight: float32 (rows, cols).
        upper: the sweep's factor U, (cols, cols).
        group_size: columns of a group.
        diagonal: what salience divides by.
    """
    # Diagonal of H^-1 = U^T U: squared column norms of U.
    divisor = upper.diagonal().square() if diagonal == "cholesky" else upper.square().sum(0).square()
    columns = torch.zeros(weight.shape[1])
    for rows in torch.split(weight, 16384):
        columns += rows.square().sum(0)
    return (columns / divisor).view(-1, group_size).mean(1) / weight.shape[0]


def ranked(spec: PlaneSpec, order: list[int]) -> PlaneSpec:
    """The bits of `spec` dealt out anew: the fewest to the first group of `order`, the most to the last."""
    bits = dict(zip(order, sorted(spec.bits), strict=True))
    return replace(spec, bits=tuple(bits[group] for group in range(len(order))))


def mixed(spec: PlaneSpec, order: list[int], i: int) -> PlaneSpec:
    """`spec` with one bit less for the first i groups of `order` and one more for the last i."""
    bits = list(spec.bits)
    for low, high in zip(order[:i], order[::-1][:i], strict=True):
        bits[low] -= 1
        bits[high] += 1
    return replace(spec, bits=tuple(bits))


def scan(weight: Tensor, inputs: Tensor, spec: PlaneSpec, order: list[int]) -> list[float]:
    """KL( softmax(X Wq^T) || softmax(X W^T) ) for i = 0 .. groups // 2 - 1 pairs of changed groups, Wq rounded
    without compensation.

    One candidate differs from the one before in two groups, so only their outputs are computed again.

    Args:
        weight: float32 (rows, cols).
        inputs: float32 (tokens, cols).
        spec: the bits of every group before any pair is changed.
        order: groups by rising salience.
    """
    size = spec.group_size
    # Scales of their own for every group, so that rounding one group again leaves the others as they were.
    spec = replace(spec, scale="fp16")
    inputs = inputs[:: max(1, inputs.shape[0] * weight.shape[0] // OUTPUTS)]
    reference = (inputs @ weight.T).softmax(1).clamp_min_(FLOOR)
    output = inputs @ rounded(weight, spec).T
    found = [_divergence(output, reference)]
    for i in range(1, max(1, len(order) // 2)):
        pair = ((order[i - 1], -1), (order[-i], 1))
        if not all(1 <= spec.bits[group] + change <= MAX_BITS for group, change in pair):
            break
        for group, change in pair:
            part = slice(group * size, (group + 1) * size)
            one = replace(spec, bits=(spec.bits[group],))
            more = replace(spec, bits=(spec.bits[group] + change,))
            step = rounded(weight[:, part], more) - rounded(weight[:, part], one)
            output.addmm_(inputs[:, part], step.T)
        found.append(_divergence(output, reference))
    return found


def _row_bytes(spec: PlaneSpec) -> int:
    return BitPlanes.plan(1, spec).nbytes


def _divergence(output: Tensor, reference: Tensor) -> float:
    found, step = 0.0, max(1, CHUNK // output.shape[1])
    for some, q in zip(torch.split(output, step), torch.split(reference, step), strict=True):
        p = some.softmax(1).clamp_min_(FLOOR)
        found += float((p * (p / q).log_()).sum())
    return found
