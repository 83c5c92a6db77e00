"""Fitting affine planes, and sums of free planes, by `descent`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.coders import AffineCoder, PlaneCoder, residual_scales
from tailorbird.fit.descent import Group, Schedule, code_rows
from tailorbird.fit.groups import Fitter
from tailorbird.fit.sweep import HEADROOM, ROW_CHUNK, Fitted, joined
from tailorbird.formats import PlaneSpec, PlaneSum, SumSpec
from tailorbird.formats.grid import Grid, Units


@dataclass(frozen=True)
class FittedSum:
    """What a fitter chose for a weight that is a sum of planes.

    Attributes:
        spec: the format.
        terms: codes and grid of every term, over the groups it covers.
        column_order: int32 (cols,), where the format stores one.
        claimed_bits: bits a weight as the method's paper counts them, where it counts otherwise.
    """

    spec: SumSpec
    terms: tuple[Fitted, ...]
    column_order: Tensor | None = None
    claimed_bits: float | None = None

    def meaning(self) -> Iterator[Tensor]:
        """Codes, scales and offsets of one term after the other."""
        for term in self.terms:
            yield from term.meaning()

    def pack(self) -> PlaneSum:
        """The packed weight."""
        return PlaneSum.pack([term.pack() for term in self.terms], self.spec, self.column_order)


def fit_affine(weight: Tensor, spec: PlaneSpec, fitter: Fitter, gram: Tensor, upper: Tensor, how: Schedule) -> Fitted:
    """Affine planes.

    Args:
        weight: float32 (rows, cols), in stored column order.
        spec: the format.
        fitter: range of a group to start with.
        gram: float32 (cols, cols), damped.
        upper: its `sweep_factor`.
        how: the schedule.
    """
    codes, grids = torch.empty(weight.shape, dtype=torch.uint8), []
    for start, w in _chunks(weight):
        ranges = [
            fitter(part, bits, spec.offset) for part, bits in zip(_groups(w, spec.group_size), spec.bits, strict=True)
        ]
        scale, offset = (torch.stack(values, 1) for values in zip(*ranges, strict=True))
        units = Units.of(scale, offset, spec, HEADROOM)
        coders = [AffineCoder(replace(spec, bits=(bits,), column_order=False), units, fitter) for bits in spec.bits]
        groups = code_rows(w, coders, gram, upper, how)
        codes[start : start + w.shape[1]] = torch.cat([group.codes for group in groups]).T
        scale, offset = (torch.stack([group.numbers[k] for group in groups], 1) for k in (0, 1))
        grids.append(Grid.store(scale, offset, spec, units))
    return Fitted(codes, joined(grids))


def fit_free(weight: Tensor, spec: SumSpec, gram: Tensor, upper: Tensor, how: Schedule) -> FittedSum:
    """Free planes: a sum of one-bit symmetric terms; arguments as of `fit_affine`.

    Raises:
        UsageError: the sum has terms of other kinds.
    """
    check_free(spec)
    found: list[list[Fitted]] = [[] for _ in spec.terms]
    for _, w in _chunks(weight):
        units = _units(w, spec)
        coders = [_coder(spec, g, units) for g in range(spec.groups)]
        groups = code_rows(w, coders, gram, upper, how)
        for k, mine in enumerate(found):
            mine.append(_term(spec, k, groups, units[k]))
    terms = [Fitted(torch.cat([f.codes for f in mine]), joined([f.grid for f in mine])) for mine in found]
    return FittedSum(spec, tuple(terms))


def check_free(spec: SumSpec) -> None:
    """Raise UsageError for a sum of anything but one-bit symmetric planes."""
    if spec.column_order or any(set(term.spec.bits) != {1} or term.spec.offset != "none" for term in spec.terms):
        raise UsageError(
            f"{spec.label} is no sum of free planes", hint="its terms need bits 1 and offset none, columns in order"
        )


def _units(w: Tensor, spec: SumSpec) -> list[Units]:
    """Units of every term, from the scales of residual binary."""
    parts, found = _groups(w, spec.group_size), []
    starts = [residual_scales(part, sum(t.over[g] for t in spec.terms)) for g, part in enumerate(parts)]
    for k, term in enumerate(spec.terms):
        scales = torch.stack([starts[g][_rank(spec, k, g)] for g in term.groups], 1)
        found.append(Units.of(scales, scales, term.spec, HEADROOM))
    return found


def _rank(spec: SumSpec, k: int, g: int) -> int:
    """Which plane of group g term k is."""
    return sum(term.over[g] for term in spec.terms[:k])


def _coder(spec: SumSpec, g: int, units: list[Units]) -> PlaneCoder:
    own = [(term, unit) for term, unit in zip(spec.terms, units, strict=True) if term.over[g]]
    return PlaneCoder(replace(own[0][0].spec, bits=(1,)), tuple(unit for _, unit in own))


def _term(spec: SumSpec, k: int, groups: list[Group], units: Units) -> Fitted:
    """Codes and grid of one term from the groups it covers."""
    term = spec.terms[k]
    bits = [groups[g].codes.to(torch.uint8) >> _rank(spec, k, g) & 1 for g in term.groups]
    scales = torch.stack([groups[g].numbers[_rank(spec, k, g)] for g in term.groups], 1)
    return Fitted(torch.cat(bits).T.contiguous(), Grid.store(scales, scales, term.spec, units))


def _groups(w: Tensor, size: int) -> list[Tensor]:
    return [w[start : start + size] for start in range(0, len(w), size)]


def _chunks(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Some rows at a time, columns first: (first row, (cols, rows))."""
    for start in range(0, weight.shape[0], ROW_CHUNK):
        yield start, weight[start : start + ROW_CHUNK].float().T.contiguous()
