"""The clip search against its definition, group by group and step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird.fit.clip import STEP, STEPS, clipped
from tailorbird.fit.groups import minmax
from tailorbird.formats import PlaneSpec
from tailorbird.formats.grid import Grid


def naive(w: Tensor, gram: Tensor, spec: PlaneSpec) -> Tensor:
    """One group of one row, (size,)."""
    reach, best, least = w.abs().max(), w, float("inf")
    for i in range(STEPS):
        limit = reach * (1 - i * STEP)
        kept = w.clamp(-limit, limit)
        scale, offset = minmax(kept[:, None], spec.bits[0], spec.offset)
        s, o = (float(one) for one in Grid.store(scale[:, None], offset[:, None], spec).values())
        error = ((kept - o) / s).round().clamp(0, 2 ** spec.bits[0] - 1) * s + o - w
        if (loss := float(error @ gram @ error)) < least * (1 - 1e-5):
            best, least = kept, loss
    return best


@pytest.mark.parametrize("offset", ["integer", "none", "float"])
@pytest.mark.parametrize("bits", [(3, 3, 3, 3), (1, 4, 2, 4)], ids=str)
def test_every_group_is_clamped_where_it_loses_least(bits: tuple[int, ...], offset: Any, layer_of: Any) -> None:
    layer = layer_of(64, 24, 300, [5, 40], 1)
    spec = PlaneSpec(bits, 16, offset, "fp16", False)
    found, gram = clipped(layer.weight.clone(), layer.gram, spec), layer.gram
    same = 0
    for row, whole in zip(layer.weight, found, strict=True):
        groups = [
            naive(row[low : low + 16], gram[low : low + 16, low : low + 16], replace(spec, bits=bits[k : k + 1]))
            for k, low in enumerate(range(0, 64, 16))
        ]
        # A row whose outputs lose more than without clamping stays as it is.
        same += torch.equal(whole, torch.cat(groups)) or torch.equal(whole, row)
    assert same == 24 and (found != layer.weight).any()
