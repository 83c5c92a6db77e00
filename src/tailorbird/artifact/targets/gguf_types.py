"""Which block type each part of an artifact gets, and its blocks.

A part whose format a type holds bit for bit gets that type. Any other is encoded anew, from its unpacked weights,
into the smallest type that loses no more than allowed, measured on a sample of rows, or into the type a user names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.artifact.reader import Artifact
from tailorbird.artifact.targets.gguf_blocks import BlockArtifact
from tailorbird.errors import UsageError
from tailorbird.formats import BitPlanes, PackedWeight, Spec, bit_planes
from tailorbird.formats.ggml import TYPES, BlockType, block_type, decode, encode
from tailorbird.formats.ggml.codec import Steps
from tailorbird.formats.ggml.exact import exact_blocks, exact_type
from tailorbird.formats.ggml.types import Codebook
from tailorbird.formats.grid import Grid

# What llama.cpp takes where rows don't divide into a type's blocks.
FALLBACKS = {
    **dict.fromkeys(("Q2_K", "Q3_K", "TQ1_0", "TQ2_0", "Q1_0"), "Q4_0"),
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **{"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"},
}
# A type that loses less than this is never too coarse: half a percent of the weights' size, as Q8_0 does.
_FLOOR = 1e-4
_SPOTS, _SPOT_ROWS = 8, 16


@dataclass(frozen=True)
class Choice:
    """What a part is written as.

    Attributes:
        kind: the block type; None is F16, which any row fits.
        exact: its values are the artifact's, bit for bit.
    """

    kind: BlockType | None
    exact: bool = False

    @property
    def name(self) -> str:
        """Name of the type."""
        return self.kind.name if self.kind else "F16"

    @property
    def bits(self) -> float:
        """Bits a weight takes."""
        return self.kind.bits if self.kind else 16.0


def allowed_error(spec: Spec, loss: float) -> float:
    """Relative squared error that encoding anew may add: a share of 4**-bits, which is what the width itself costs."""
    return max(loss / float(4**spec.mean_bits), _FLOOR)


def choose(artifact: Artifact, part: Part, named: str, loss: float) -> Choice:
    """The type of a part; `named` is empty or what the user wants, see `allowed_error` for `loss`."""
    if isinstance(artifact, BlockArtifact) and part.name in artifact.blocks:
        return Choice(artifact.blocks[part.name][0])
    spec, cols = artifact.plan.specs[part.name], part.shape[1]
    exact = exact_type(spec)
    wanted = fitting(named, cols) if named else None
    if exact and (wanted is None or exact.bits <= wanted.bits):
        return Choice(exact, exact=True)
    if named:
        return wanted or Choice(None)
    most = allowed_error(spec, loss)
    weight, grid = _unpacked(_sample(artifact, part))
    # No code of so many bits loses less than 4**-bits of Gaussian weights; those on another grid only types with plain
    # steps may hit, and codebooks take long to search.
    for bits in sorted({kind.bits for kind in TYPES.values()}):
        kinds = [kind for kind in TYPES.values() if kind.bits == bits and cols % kind.weights == 0]
        kinds = [kind for kind in kinds if not isinstance(kind.grid, Codebook) or 4**-bits <= most]
        errors = {kind.name: relative_error(decode(encode(weight, kind, grid=grid), kind), weight) for kind in kinds}
        best = min(kinds, key=lambda kind: errors[kind.name], default=None)
        if best and errors[best.name] <= most:
            return Choice(best)
    return Choice(None)


def mixture(text: str) -> dict[str, str]:
    """Types by role or name of a module, such as ``IQ2_XS,attention=Q4_K,down_proj=Q3_K``; that of the empty name is
    for all others.

    Raises:
        UsageError: an unknown type, or a name twice.
    """
    found: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        name, sign, kind = item.strip().rpartition("=")
        if name in found or (sign and not name):
            raise UsageError(f"type={text!r} says {name or 'all others'} twice", hint="write Q4_K,embedding=Q6_K")
        found[name] = block_type(kind).name
    return found


def named_for(types: Mapping[str, str], part: Part) -> str:
    """The type a mixture names for a part, the more particular one; empty where it names none."""
    leaf = part.name.rpartition(".")[2]
    return next((types[name] for name in (leaf, part.role, "") if name in types), "")


def fitting(named: str, cols: int) -> Choice:
    """The named type, or where rows of `cols` don't divide into its blocks what llama.cpp takes in its place."""
    kind = block_type(named)
    if cols % kind.weights:
        kind = block_type(FALLBACKS.get(named, named))
    return Choice(None if cols % kind.weights else kind)


def blocks(artifact: Artifact, part: Part, choice: Choice, start: int, stop: int) -> Tensor:
    """Rows start to stop of a part as stored in a file: uint8 (rows, bytes of a row)."""
    if isinstance(artifact, BlockArtifact) and part.name in artifact.blocks:
        return artifact.raw(part.name, start, stop)
    planes = artifact.planes(part.name, start, stop)
    if choice.exact and choice.kind:
        return exact_blocks(bit_planes(planes), choice.kind)
    weight, grid = _unpacked([planes])
    if choice.kind is None:
        return weight.to(torch.float16).view(torch.uint8)
    return encode(weight, choice.kind, grid=grid)


def relative_error(got: Tensor, want: Tensor) -> float:
    """Squared error over the squared weights; 0 where both are 0."""
    lost, whole = float((got - want).square().sum()), float(want.square().sum())
    return lost / whole if whole else lost


def _unpacked(pieces: Sequence[PackedWeight]) -> tuple[Tensor, Steps | None]:
    """Weights of some rows, and scale and offset of their groups where these are runs of columns."""
    weight = torch.cat([planes.dequantize() for planes in pieces])
    found = [
        Grid(planes.spec, planes.arrays).values()
        for planes in pieces
        if isinstance(planes, BitPlanes) and not planes.spec.column_order
    ]
    if not found:
        return weight, None
    return weight, (torch.cat([scale for scale, _ in found]), torch.cat([offset for _, offset in found]))


def _sample(artifact: Artifact, part: Part) -> list[PackedWeight]:
    """Some rows from everywhere in a part."""
    rows = part.shape[0]
    starts = sorted({min(rows * spot // _SPOTS, max(0, rows - _SPOT_ROWS)) for spot in range(_SPOTS)})
    return [artifact.planes(part.name, a, min(a + _SPOT_ROWS, rows)) for a in starts]
