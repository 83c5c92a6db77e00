"""`Method`: a named choice of score, allocate, fit and tune.

A method is a frozen dataclass whose fields are its options. It sees tensors and plain values, never files,
progress bars or other methods. The built-in ones live in `methods/`, one file each.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from torch import Tensor

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit.finer import fit_finer
from tailorbird.formats import Fit, PlaneSpec, RowSpec, Spec, above_eight, eight
from tailorbird.formats.spec import Offset, Scale
from tailorbird.measure.block import Block, Transformed
from tailorbird.measure.statistics import Need, Stats

Rotate = Literal["none", "hadamard", "learned"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """What every method shares: the format's options. Subclasses add their own fields and override `decide` and `fit`;
    those that see whole blocks also `transform` and `tune`.

    Attributes:
        group_size: columns that share a scale; where it does not divide a row, the nearest divisor is taken (`spec`).
        symmetric: no zero points.
        scale: ``u8``: 8-bit scales under a half a row; ``fp16``: a half for every group.
        rotate: rotate the model before anything else (`tailorbird.transform`): ``hadamard`` at random, ``learned``
            from there on to where rounding costs least.
        rotate_residual: rotate the residual stream too, and not the value heads alone.
        rotate_seed: of the rotation's random signs.
        rows: rows of an embedding or a head have bits by what they are worth (see `allocate.rows`), where calibration
            data say so and the plan leaves it open.
        propagate: the share of what its inputs lost before it that a layer's weights make up for
            (`tailorbird.fit.propagate`).
        guided: the share of what a token counts in a fit that says how much errors there are felt at the model's
            output (`tailorbird.score.guide`); the rest is alike for all.
        distill: passes over the calibration windows in which the finished language model learns end to end from the
            original, its codes as they are (`tailorbird.tune.distill`).
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    status: ClassVar[str] = "ready"
    needs: ClassVar[frozenset[Need]] = frozenset()
    # The format of weights inside the blocks is the method's own; bits of a budget are for embedding and head.
    own_format: ClassVar[bool] = False
    kinds: ClassVar[frozenset[str]] = frozenset({PlaneSpec.kind})
    # Bits that an embedding or a head has before the blocks have more than they need, where rows are in classes.
    least_ends: ClassVar[float] = 1.25

    group_size: int = 64
    symmetric: bool = False
    scale: Scale = "u8"
    rotate: Rotate = "none"
    rotate_residual: bool = True
    rotate_seed: int = 0
    rows: bool = True
    propagate: float = 0.0
    guided: float = 0.0
    distill: int = 0

    def __post_init__(self) -> None:
        """Refuse options no format can hold."""
        if self.group_size < 1 or self.scale not in ("u8", "fp16"):
            raise UsageError(f"group_size={self.group_size}, scale={self.scale!r}", hint="a positive size; u8 or fp16")
        if self.rotate not in get_args(Rotate):
            raise UsageError(f"rotate={self.rotate!r}", hint=f"one of {', '.join(get_args(Rotate))}")
        for name, what in (("propagate", "propagate errors"), ("guided", "be guided")):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise UsageError(f"{name}={share}", hint="a share, from 0 to 1")
            if share and not ("gram" in self.needs and "block" not in self.needs):
                raise UsageError(
                    f"{self.name} can't {what}", hint="it is for methods that fit every layer to its inputs"
                )
        if self.distill < 0:
            raise UsageError(f"distill={self.distill}", hint="passes over the calibration windows, 0 for none")

    @property
    def measures(self) -> frozenset[Need]:
        """What the method needs, with its options."""
        return self.needs | ({"reference", "drift"} if self.propagate else set())

    @property
    def calibrated(self) -> bool:
        """Whether calibration data is needed: for statistics, to learn a rotation, or to distil."""
        return bool(self.needs) or self.rotate == "learned" or self.distill > 0

    @property
    def transforms(self) -> bool:
        """Whether weights are scaled before they are fitted: then they can't be compared with the model's."""
        return type(self).transform is not Method.transform

    @property
    def offset(self) -> Offset:
        """How groups store where their codes begin."""
        return "none" if self.symmetric else "integer"

    def spec(self, part: Part, bits: int) -> Spec:
        """The format of a part at a number of bits, before `decide`; of one of the method's `kinds`."""
        return self.planes(part, bits)

    def planes(self, part: Part, bits: int) -> PlaneSpec:
        """Affine planes of one number of bits."""
        return PlaneSpec.uniform(bits, part.shape[1], group_of(part.shape[1], self.group_size), self.offset, self.scale)

    def fitting(self, part: Part, spec: Spec) -> Spec:
        """A spec the method can fit.

        Raises:
            UsageError: it is of another kind, or the method has a format of its own and this is another one.
        """
        inside = part.role not in ("embedding", "head")
        if self.own_format and inside and spec != self.spec(part, 1):
            raise UsageError(
                f"{self.name} can't fit {part.name} as {spec.label}",
                hint=f"its format is {self.spec(part, 1).label}; take another method, or no target",
            )
        kinds = {eight(form).kind for form in (spec.formats if isinstance(spec, RowSpec) else [spec])}
        if not kinds <= self.kinds:
            raise UsageError(
                f"{self.name} can't fit {part.name} as {spec.label}",
                hint=f"{self.name} fits {' and '.join(sorted(self.kinds))}; take another method, plan or target",
            )
        return spec

    def transform(self, block: Block) -> Transformed:
        """An equivalent transform: tensors of the block in place of its own that leave its output as it was, and how
        inputs of its parts are scaled by it. Called before `decide` where `needs` has ``block``.

        A tensor that is kept as it is (a norm gain) has to come in the dtype it is stored in (`Block.kept`), so that
        the weights beside it can make up for its rounding.
        """
        return Transformed()

    def shortened(self) -> tuple[Method, float]:
        """The method with a shorter `transform`, and how many times as long its own takes; for an estimate of time."""
        return self, 1.0

    def tune(self, block: Block, specs: Mapping[str, Any]) -> Mapping[str, Fit]:
        """Codes of a block's parts, by part name, found together in the decided formats. Called where `needs` has
        ``block``; parts that are left out are fitted one by one."""
        return {}

    def passes(self, batches: int) -> float:
        """Forward passes over all calibration data that `transform` and `tune` take for a block, a backward pass
        counting as two; for an estimate of time. `batches` is how many the data come in."""
        return 0.0

    def decide(self, weight: Tensor, stats: Stats, spec: Any) -> Spec:
        """The method's inner choice: a format of the same bytes as `spec` (bits by group, say). Weight is float32
        (rows, cols)."""
        same: Spec = spec
        return same

    def fit(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """The codes that lose least in this format. Weight is float32 (rows, cols) and may be overwritten."""
        raise NotImplementedError(f"method {self.name!r} has no fit")

    def fitted(self, weight: Tensor, stats: Stats, spec: Any) -> Fit:
        """As `fit`; above eight bits, where no method chooses codes, by rounding."""
        return fit_finer(weight, spec) if above_eight(spec) else self.fit(weight, stats, spec)

    def options(self) -> dict[str, Any]:
        """All options as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Method:
        """Build from plain data; text values (from a command line) are read as the field's type.

        Raises:
            UsageError: an unknown option or a value of the wrong type; lists what there is.
        """
        return cls(**read_options(cls, cls.name, options))


def read_options(kind: type[Any], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the fields of a dataclass; `kind` is the class, `name` what messages call it.

    Raises:
        UsageError: an unknown option or a value of the wrong type; lists what there is.
    """
    hints = get_type_hints(kind)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    for option in options:
        if option not in fields:
            raise UsageError(f"{name} has no option {option!r}", hint=f"its options: {', '.join(sorted(fields))}")
    return {option: _typed(option, value, fields[option]) for option, value in options.items()}


def group_of(cols: int, wanted: int) -> int:
    """The group size for a row: `wanted` where it divides, else the nearest divisor down to a quarter of it, else
    the whole row."""
    nearest = next(size for size in range(min(wanted, cols), 0, -1) if cols % size == 0)
    return nearest if 4 * nearest >= min(wanted, cols) else cols


def _typed(name: str, value: Any, kind: Any) -> Any:
    if kind in (int, float, bool) and isinstance(value, str):
        try:
            value = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError):
            raise UsageError(f"option {name}={value!r} is not a {kind.__name__}", hint=f"write {name}=...") from None
    expected = (int, float) if kind is float else kind if kind in (int, bool) else str
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(
            f"option {name}={value!r} has the wrong type", hint=f"expected {getattr(kind, '__name__', kind)}"
        )
    if kind is float and not math.isfinite(float(value)):
        raise UsageError(f"option {name}={value!r} is not finite", hint="write a number")
    return float(value) if kind is float else value
