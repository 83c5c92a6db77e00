"""One bit a weight: the sign, times the mean magnitude of the group (Rastegari et al., XNOR-Net, arXiv 1603.05279,
equation 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tailorbird.fit.sweep import Fitted
from tailorbird.formats import PlaneSpec
from tailorbird.formats.grid import Grid
from tailorbird.measure.statistics import Stats
from tailorbird.method import Method


@dataclass(frozen=True, kw_only=True)
class Sign(Method):
    """w = +-mean|w|; more bits spread the same range evenly around zero."""

    name: ClassVar[str] = "sign"
    title: ClassVar[str] = "Sign and mean magnitude"
    paper: ClassVar[str] = "arXiv 1603.05279"

    symmetric: bool = True

    def fit(self, weight: Tensor, stats: Stats, spec: PlaneSpec) -> Fitted:
        """Scale of each group, then the nearest of its 2**bits values."""
        groups = weight.view(weight.shape[0], len(spec.bits), spec.group_size)
        top = weight.new_tensor([2**bits - 1 for bits in spec.bits])
        one = top == 1
        reach = groups.abs().mean(2).where(one, groups.abs().amax(2))
        scale = 2 * reach / top
        grid = Grid.store(scale, -scale * ((top + 1) / 2).where(~one, 0.5), spec)
        stored, offset = grid.values()
        # The format's own numbers from here on, so that codes fit what will be read back.
        codes = (groups - offset[:, :, None]).div_(stored[:, :, None]).round_()
        codes = codes.clamp_(codes.new_zeros(()), top[None, :, None])
        return Fitted(codes.byte().view(weight.shape), grid)
