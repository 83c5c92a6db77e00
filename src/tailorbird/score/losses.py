"""Losses by part and bits as a table, and the factors that a few measured probes put on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.formats import PackedWeight, Spec
from tailorbird.score.fisher import Told, fisher
from tailorbird.score.mask import omega
from tailorbird.score.patched import patched
from tailorbird.score.rounding import Rounding
from tailorbird.tasks.language import Reference, evaluate

# From here on a bit more quarters the loss, and nothing need be measured.
TOP = 5
# Rows rounded at once.
CHUNK = 16_384
# Below this a loss drowns in the rounding of the arithmetic that measures it.
FLOOR = 1e-5
# What a factor may be: one beyond says that the probe was outside what second order can tell.
REACH = 8.0

Losses = Mapping[str, Mapping[int, float]]
"""By part name, mean KL of a token in nats by bits."""
Formats = Mapping[str, Mapping[int, Spec]]
"""By part name, the format that stands for so many bits."""


def formats(parts: Sequence[Part], spec_of: Callable[[Part, int], Spec]) -> Formats:
    """The formats whose losses are measured: up to `TOP` bits, those that a runtime knows."""
    specs = {part.name: [spec_of(part, bits) for bits in range(1, TOP + 1)] for part in parts}
    return {name: {round(spec.mean_bits): spec for spec in found} for name, found in specs.items()}


def losses(
    model: Model, rounding: Rounding, options: Formats, windows: Tensor, folder: Path, seed: int, told: Told
) -> Losses:
    """`fisher` for every part at every format; see there."""

    def errors(part: Part, rows: Tensor, index: Tensor | None) -> list[Tensor]:
        return [rounding(part, rows, spec, index) - rows for spec in options[part.name].values()]

    with torch.enable_grad():
        found = fisher(model, windows, errors, folder, seed, told)
    return {name: dict(zip(options[name], values, strict=True)) for name, values in found.items()}


def sensitivities(model: Model, rounding: Rounding, options: Formats, window: Tensor, seed: int) -> Losses:
    """OHQ's sensitivity of every part at every format: `omega` times the share of its energy that rounding loses."""
    found = omega(model, window, seed=seed)
    parts = {part.name: part for part in model.parts}
    return {name: {bits: found[name] * _lost(model, rounding, parts[name], spec) for bits, spec in by.items()}
            for name, by in options.items()}  # fmt: skip


def _lost(model: Model, rounding: Rounding, part: Part, spec: Spec) -> float:
    """|W - Q(W)|^2 / |W|^2."""
    lost, whole = 0.0, 0.0
    for start in range(0, part.shape[0], CHUNK):
        at = slice(start, min(start + CHUNK, part.shape[0]))
        rows = model.read_rows(part, at.start, at.stop).float()
        whole += float(rows.square().sum())
        lost += float((rounding(part, rows, spec, at) - rows).square().sum())
    return lost / whole if whole else 0.0


def realised(
    model: Model, planes: Callable[[Part], PackedWeight], windows: Tensor, folder: Path, seed: int
) -> dict[str, float]:
    """`fisher` for the weights that a method made, by part name."""

    def errors(part: Part, rows: Tensor, index: Tensor | None) -> list[Tensor]:
        packed = planes(part)
        return [(packed.dequantize() if index is None else packed.gather(index)) - rows]

    with torch.enable_grad():
        found = fisher(model, windows, errors, folder, seed)
    return {name: value for name, (value,) in found.items()}


def measured(reference: Reference, rounding: Rounding, specs: Mapping[str, Spec]) -> float:
    """KL of the model with some parts rounded to these formats, mean over the tokens of the reference."""
    model = reference.model

    def rows(part: Part) -> Callable[[int, int], Tensor]:
        return lambda start, stop: rounding(
            part, model.read_rows(part, start, stop).float(), specs[part.name], slice(start, stop)
        )

    changed = {part.name: rows(part) for part in model.parts if part.name in specs}
    found = evaluate(patched(model, changed), reference.windows, reference)
    return found.kl or 0.0


def factors(
    reference: Reference,
    rounding: Rounding,
    parts: Sequence[Part],
    specs: Mapping[str, Spec],
    estimated: Mapping[str, float],
) -> dict[str, float]:
    """What the losses of each role are to be multiplied by, from one probe a role: all its parts in their formats.

    Args:
        reference: the original on text the losses were not estimated on.
        rounding: how parts are rounded.
        parts: of the model.
        specs: a plan near the one that is sought.
        estimated: losses of the parts in these formats.

    Returns:
        By role, measured over estimated, within `REACH` either way.
    """
    found: dict[str, float] = {}
    for role in dict.fromkeys(part.role for part in parts):
        mine = [part.name for part in parts if part.role == role]
        guess = sum(estimated[name] for name in mine)
        kl = measured(reference, rounding, {name: specs[name] for name in mine}) if guess > FLOOR else guess
        found[role] = min(max(kl / guess, 1 / REACH), REACH) if kl > FLOOR else 1.0
    return found
