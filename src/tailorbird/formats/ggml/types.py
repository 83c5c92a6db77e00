"""llama.cpp's block types: a grid of values, and where its numbers stand in the block.

Layouts as ggml-common.h defines them (ggml, GGUF v3). A block is a run of consecutive weights of a row, in
sub-blocks of `sub` weights. Its weights are

- on `Levels`: ``d * scale * level``,
- on `Affine`: ``d * scale * code - dmin * minimum``, or ``d * code + dmin`` where sub-blocks have no scales,
- on `Codebook`: ``d * scale * point * sign``, several weights at a time,

with halves d and dmin, and small integers by sub-block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tailorbird.formats.ggml.layout import Strip, Strips, Trits, bit_string, runs, words

_CURVE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Levels:
    """A finite set of levels times a scale of either sign.

    Attributes:
        low: lowest level.
        high: highest level.
        bias: stored code of level 0, where levels are the integers from low to high.
        table: the levels by stored code, where they are not.
        scale_low: lowest scale of a sub-block, and
        scale_high: the highest; both 0 where sub-blocks have none.
        scale_bias: stored code of scale 0.
        spare: levels below `low` that can be stored, which ggml's encoders and ours leave alone.
    """

    low: int
    high: int
    bias: int = 0
    table: tuple[int, ...] | None = None
    scale_low: int = 0
    scale_high: int = 0
    scale_bias: int = 0
    spare: int = 0


@dataclass(frozen=True)
class Affine:
    """Codes 0 to `top` times a scale, from an offset on.

    Attributes:
        top: largest code.
        scale_top: largest scale and minimum of a sub-block; 0 where it has none, and dmin is the offset itself.
    """

    top: int
    scale_top: int = 0


@dataclass(frozen=True)
class Codebook:
    """Points of `dim` weights each, times an odd scale 1 to ``2 * top + 1``.

    Attributes:
        table: name of the points.
        dim: weights of a point.
        unit: what the points' numbers are multiplied with, a power of two.
        top: largest stored scale.
        signs: "free": every weight has a sign; "even": likewise, with an even number of minus signs in eight weights;
            "shift": points have their signs, and a shift of an eighth up or down.
        shared: all points of a sub-block have one shift.
    """

    table: str
    dim: int
    unit: float
    top: int
    signs: Literal["free", "even", "shift"]
    shared: bool = False


Grid = Levels | Affine | Codebook
"""Which values a type can hold."""


@dataclass(frozen=True)
class BlockType:
    """One block type.

    Attributes:
        name: as llama.cpp writes it.
        id: number in a file.
        weights: in a block.
        nbytes: of a block.
        sub: weights in a sub-block.
        grid: which values it can hold.
        d: byte at which the half d stands, or where its bits stand.
        codes: where the codes stand, `weights` of them; on a `Codebook` one for a point.
        dmin: byte of the half dmin, of an `Affine`.
        scales: where the sub-blocks' scales stand.
        minima: where their minima stand.
        signs: where the signs of eight weights each stand.
    """

    name: str
    id: int
    weights: int
    nbytes: int
    sub: int
    grid: Grid
    d: int | Strips
    codes: Strips
    dmin: int = -1
    scales: Strips = ()
    minima: Strips = ()
    signs: Strips = ()

    @property
    def subs(self) -> int:
        """Sub-blocks in a block."""
        return self.weights // self.sub

    @property
    def bits(self) -> float:
        """Bits a weight takes."""
        return 8 * self.nbytes / self.weights


_SIX_BITS = (Strip(4, 4, 0, width=6), Strip(12, 4, 4, width=4), Strip(4, 4, 4, shift=6, width=2, lift=4))
_SIX_BIT_MINIMA = (
    Strip(8, 4, 0, width=6),
    Strip(12, 4, 4, shift=4, width=4),
    Strip(8, 4, 4, shift=6, width=2, lift=4),
)
_Q3_K_SCALES = (*runs(96, 8, 4, 8), *runs(104, 4, 2, 4, lift=4))
_IQ4_XS_SCALES = (
    *(Strip(4, 4, n, 2, 4 * n, 4) for n in range(2)),
    *(Strip(2, 2, n, 4, 2 * n, 2, lift=4) for n in range(4)),
)


def _nibbles(at: int, count: int) -> Strips:
    """Two elements a byte, the lower bits first."""
    return tuple(Strip(at, count, n, 2, 4 * n, 4) for n in range(2))


def _fields(at: int, size: int, count: int, width: int, each: int, lift: int = 0) -> Strips:
    """`each` elements of `width` bits in each of `count` words of `size` bytes, the lowest bits first."""
    return tuple(strip for n in range(each) for strip in words(at, count, size, n * width, width, n, each, lift))


_IQ1_S_CODES = (
    *(Strip(2, 32), *_fields(34, 2, 8, 3, 4, lift=8)),
    *(strip for n in range(4) for strip in words(34, 8, 2, 15, 1, n, 4, 11)),
)
_TRITS = (Trits(0, 32, 0, 5), Trits(32, 16, 160, 5), Trits(48, 4, 240, 4))
_CURVED = Levels(-127, 113, table=_CURVE)

_ALL = (
    BlockType("Q4_0", 2, 32, 18, 32, Levels(-8, 7, 8), 0, runs(2, 16, 4, 16)),
    BlockType("Q4_1", 3, 32, 20, 32, Affine(15), 0, runs(4, 16, 4, 16), dmin=2),
    BlockType("Q5_0", 6, 32, 22, 32, Levels(-16, 15, 16), 0, (*runs(6, 16, 4, 16), *bit_string(2, 4, 4))),
    BlockType("Q5_1", 7, 32, 24, 32, Affine(31), 0, (*runs(8, 16, 4, 16), *bit_string(4, 4, 4)), dmin=2),
    BlockType("Q8_0", 8, 32, 34, 32, Levels(-127, 127, spare=1), 0, (Strip(2, 32),)),
    BlockType(
        *("Q2_K", 10, 256, 84, 16, Affine(3, 15), 80, runs(16, 64, 2, 32), 82),
        scales=(Strip(0, 16, width=4),),
        minima=(Strip(0, 16, shift=4, width=4),),
    ),
    BlockType(
        *("Q3_K", 11, 256, 110, 16, Levels(-4, 3, 4, None, -32, 31, 32), 108),
        (*runs(32, 64, 2, 32), *runs(0, 32, 1, 32, lift=2)),
        scales=_Q3_K_SCALES,
    ),
    BlockType("Q4_K", 12, 256, 144, 32, Affine(15, 63), 0, runs(16, 128, 4, 32), 2, _SIX_BITS, _SIX_BIT_MINIMA),
    BlockType(
        *("Q5_K", 13, 256, 176, 32, Affine(31, 63), 0),
        (*runs(48, 128, 4, 32), *runs(16, 32, 1, 32, lift=4)),
        *(2, _SIX_BITS, _SIX_BIT_MINIMA),
    ),
    BlockType(
        *("Q6_K", 14, 256, 210, 16, Levels(-32, 31, 32, None, -128, 127), 208),
        (*runs(0, 128, 4, 64), *runs(128, 64, 2, 32, lift=4)),
        scales=(Strip(192, 16),),
    ),
    BlockType(
        *("IQ2_XXS", 16, 256, 66, 32, Codebook("IQ2_XXS", 8, 1 / 8, 15, "even"), 0),
        tuple(Strip(2 + n, 8, n, 4, every=8) for n in range(4)),
        scales=(Strip(9, 8, shift=4, width=4, every=8),),
        signs=_fields(6, 8, 8, 7, 4),
    ),
    BlockType(
        *("IQ2_XS", 17, 256, 74, 16, Codebook("IQ2_XS", 8, 1 / 8, 15, "even"), 0, words(2, 32, 2, 0, 9)),
        scales=_nibbles(66, 8),
        signs=words(2, 32, 2, 9, 7),
    ),
    BlockType(
        *("IQ3_XXS", 18, 256, 98, 32, Codebook("IQ3_XXS", 4, 1 / 4, 15, "even"), 0, (Strip(2, 64),)),
        scales=(Strip(69, 8, shift=4, width=4, every=4),),
        signs=_fields(66, 4, 8, 7, 4),
    ),
    BlockType(
        *("IQ1_S", 19, 256, 50, 32, Codebook("IQ1_S", 8, 1 / 8, 7, "shift", shared=True), 0, _IQ1_S_CODES),
        scales=words(34, 8, 2, 12, 3),
    ),
    BlockType("IQ4_NL", 20, 32, 18, 32, _CURVED, 0, runs(2, 16, 4, 16)),
    BlockType(
        *("IQ3_S", 21, 256, 110, 32, Codebook("IQ3_S", 4, 1.0, 15, "free"), 0),
        (Strip(2, 64), *bit_string(66, 8, 8)),
        scales=_nibbles(106, 4),
        signs=(Strip(74, 32),),
    ),
    BlockType(
        *("IQ2_S", 22, 256, 82, 16, Codebook("IQ2_S", 8, 1 / 8, 15, "free"), 0),
        (Strip(2, 32), *_fields(66, 1, 8, 2, 4, lift=8)),
        scales=_nibbles(74, 8),
        signs=(Strip(34, 32),),
    ),
    BlockType(
        *("IQ4_XS", 23, 256, 136, 32, Levels(-127, 113, 0, _CURVE, -32, 31, 32), 0, runs(8, 128, 4, 16)),
        scales=_IQ4_XS_SCALES,
    ),
    BlockType(
        *("IQ1_M", 29, 256, 56, 16, Codebook("IQ1_S", 8, 1 / 8, 7, "shift")),
        # The half d is in the highest four bits of the four words that hold the scales.
        tuple(strip for n in range(4) for strip in words(48 + 2 * n, 1, 2, 12, 4, lift=4 * n)),
        (Strip(0, 32), *_fields(32, 1, 16, 4, 2, lift=8)),
        scales=_fields(48, 2, 4, 3, 4),
    ),
    BlockType("TQ1_0", 34, 256, 54, 256, Levels(-1, 1, 1), 52, _TRITS),
    # Two bits hold four levels; ggml's encoder uses three of them, its decoders and kernels read all.
    BlockType("TQ2_0", 35, 256, 66, 256, Levels(-1, 2, 1), 64, runs(0, 64, 2, 32)),
    BlockType("Q1_0", 41, 128, 18, 128, Levels(-1, 1, table=(-1, 1)), 0, bit_string(2, 16)),
)

TYPES = {kind.name: kind for kind in _ALL}
"""Every block type by name."""
