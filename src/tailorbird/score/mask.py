"""How much the model's output depends on a part: the KL divergence that random masks on its weights cause.

Source: mask-guided quantization estimation of OHQ, arXiv 2309.01945, in a reconstruction: masks of keep ratio 0.9. The
sensitivity at some bits is that times the share of the weights' energy that rounding loses.

All masked variants of the model go through it together, block by block: one block's weights are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.anatomy import Model, Part
from tailorbird.measure.shell import Shell
from tailorbird.tasks.head import Head, head_part
from tailorbird.tasks.streaming_softmax import StreamingDivergence, StreamingSoftmax

KEEP = 0.9
MASKS = 2
SLICE = 16_384
Told = Callable[[int, int], None]


@dataclass
class _Variant:
    """The model with one part masked.

    Attributes:
        part: which.
        seed: of the mask.
        states: where it is: (1, length, width).
    """

    part: Part
    seed: int
    states: Tensor


@torch.no_grad()
def omega(
    model: Model,
    window: Tensor,
    keep: float = KEEP,
    masks: int = MASKS,
    seed: int = 0,
    told: Told = lambda done, total: None,
) -> dict[str, float]:
    """KL(original || masked) by part name, mean over tokens and masks, in nats.

    Args:
        model: a language model laid out in blocks.
        window: token ids, int64 (1, length).
        keep: share of the weights that stay.
        masks: drawn for each part.
        seed: of the masks.
        told: told about every block that is done.
    """
    shell, head = Shell(model), head_part(model)
    drawn = [(part, masks * number + mask + 1_000_003 * seed) for number, part in enumerate(model.parts)
             for mask in range(masks)]  # fmt: skip
    embedding = f"{model.anatomy.embedding}.weight"

    def rows(ids: Tensor) -> Tensor:
        return model.gather(embedding, ids).float()

    states = shell.enter(window, rows)
    variants = [
        _Variant(part, at, shell.enter(window, lambda ids, p=part, at=at: rows(ids) * mask_rows(p, at, keep, ids)))  # type: ignore[misc]
        for part, at in drawn
        if part.tensor == embedding
    ]
    for index, name in enumerate(model.blocks):
        model.fill(name)
        for variant in variants:
            variant.states = shell.run(index, variant.states)
        for part, at in drawn:
            if part.block == index:
                weight = model.module.get_submodule(part.name).get_parameter("weight")
                kept = weight.data
                weight.data = kept * mask_rows(part, at, keep, torch.arange(part.shape[0]))
                variants.append(_Variant(part, at, shell.run(index, states)))
                weight.data = kept
        states = shell.run(index, states)
        model.drop(name)
        told(index + 1, len(model.blocks))
    if not head.tied:
        variants += [_Variant(part, at, states) for part, at in drawn if part is head]
    for variant in variants:
        variant.states = shell.leave(variant.states)
    return _divergences(model, shell.leave(states), variants, head, keep)


def mask_rows(part: Part, seed: int, keep: float, rows: Tensor) -> Tensor:
    """Rows of a part's mask, float32 (n, cols) of zeros and ones; each row is the same whichever are asked for.

    Args:
        part: whose mask.
        seed: of the whole mask.
        keep: share of ones.
        rows: rising.
    """
    found = []
    for start in range(0, part.shape[0], SLICE):
        mine = rows[(rows >= start) & (rows < start + SLICE)] - start
        if len(mine):
            generator = torch.Generator().manual_seed(seed * 4_099 + start)
            shape = (min(SLICE, part.shape[0] - start), part.shape[1])
            found.append((torch.rand(shape, generator=generator) < keep)[mine].float())
    return torch.cat(found)


def _divergences(model: Model, states: Tensor, variants: list[_Variant], head: Part, keep: float) -> dict[str, float]:
    """KL of every variant, the head's rows some at a time."""
    n = states.shape[1]
    own = Head(model, states)
    targets = torch.zeros(n, dtype=torch.int64)
    gaps = [StreamingDivergence(StreamingSoftmax(targets), StreamingSoftmax(targets)) for _ in variants]
    for start in range(0, head.shape[0], SLICE):
        stop = min(start + SLICE, head.shape[0])
        own.take(start, stop)
        weight, logits = own.weight, own.logits(slice(0, n))
        for variant, gap in zip(variants, gaps, strict=True):
            own.states = variant.states
            if variant.part is head:
                own.weight = weight * mask_rows(head, variant.seed, keep, torch.arange(start, stop))
            gap.add(slice(0, n), start, logits.clone(), own.logits(slice(0, n)))
            own.states, own.weight = states, weight
    found: dict[str, list[float]] = {}
    for variant, gap in zip(variants, gaps, strict=True):
        found.setdefault(variant.part.name, []).append(float(gap.value().mean()))
    return {name: sum(values) / len(values) for name, values in found.items()}
