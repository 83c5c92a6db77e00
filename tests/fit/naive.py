"""The compensation sweep as the paper has it: one column at a time, every later column updated at once, in doubles."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tailorbird.fit.groups import Fitter, minmax
from tailorbird.fit.sweep import HEADROOM
from tailorbird.formats import PlaneSpec
from tailorbird.formats.grid import Grid, Units


def damped(gram: Tensor, damp: float) -> Tensor:
    """H with `damp` times its mean diagonal added, 1 on the diagonal of dead columns; float64."""
    gram = gram.double().clone()
    dead = gram.diagonal() == 0
    gram += damp * gram.diagonal().mean() * torch.eye(len(gram))
    gram[dead, dead] = 1.0
    return gram


def naive_sweep(
    weight: Tensor, gram: Tensor, spec: PlaneSpec, fitter: Fitter = minmax, damp: float = 0.01, static: bool = False
) -> tuple[Tensor, Tensor, float]:
    """Codes (rows, cols), weights as stored and sum e^2 of a sweep in column order."""
    w = weight.double().clone()
    w[:, gram.diagonal() == 0] = 0
    upper = torch.linalg.cholesky(torch.linalg.inv(damped(gram, damp)), upper=True)
    size, groups = spec.group_size, range(len(spec.bits))

    def fitted(g: int, by: Fitter) -> tuple[Tensor, Tensor]:
        return by(w[:, g * size : (g + 1) * size].float().T.contiguous(), spec.bits[g], spec.offset)

    first = [fitted(g, fitter if static else minmax) for g in groups]
    scales, offsets = (torch.stack(values, 1) for values in zip(*first, strict=True))
    units = Units.of(scales, offsets, spec, 1.0 if static else HEADROOM)
    codes, stored, error = torch.empty(w.shape, dtype=torch.uint8), torch.empty_like(weight), 0.0
    for j in range(w.shape[1]):
        g = j // size
        if j % size == 0:
            raw = first[g] if static else fitted(g, fitter)
            one = replace(spec, bits=(spec.bits[g],))
            scale, offset = (v[:, 0] for v in Grid.store(raw[0][:, None], raw[1][:, None], one, units).values())
        code = ((w[:, j] - offset.double()) / scale.double()).round().clamp(0, 2 ** spec.bits[g] - 1)
        codes[:, j], stored[:, j] = code.to(torch.uint8), code.float() * scale + offset
        e = (w[:, j] - stored[:, j].double()) / upper[j, j]
        w[:, j:] -= e[:, None] * upper[j, j:]
        error += float(e.square().sum())
    return codes, stored, error
