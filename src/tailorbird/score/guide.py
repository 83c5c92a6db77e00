"""How much every calibration token counts in a layer's fit: as much as an error there is felt at the model's output.

To second order an error dW of a layer costs ``1/2 mean_t (g_t^T dW x_t)^2``, x_t its inputs and g_t the gradients at
its outputs (`score.fisher`). Where the directions of g_t and of dW x_t are taken as independent, that is the error of
the layer's output with every token weighed by |g_t|^2, and the Gram matrix of a fit becomes H = sum |g_t|^2 x_t x_t^T
(GuidedQuant, arXiv 2505.07004, section 3, with one group of outputs; in YAQA, arXiv 2505.22988, the factor of the
inputs, without that of the outputs). Two departures: labels are drawn from the model, and are not the text's own
words; and a fit takes the weights in part only (`shared`), as what one backward pass says of one token is mostly
chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.anatomy import Model
from tailorbird.measure.shell import Shell
from tailorbird.measure.states import SPILL_BYTES
from tailorbird.score.backward import behind, forward, rows_used, through

Guide = Mapping[str, Tensor]
"""By part name, what every token counts: float32 (windows, length), not negative, 1 on average."""


@torch.enable_grad()
def guide(model: Model, windows: Tensor, folder: Path, seed: int, told: Callable[[int, int], None]) -> Guide:
    """What all tokens count in the parts inside the blocks. A part that a pass meets several times has the sum.

    Args:
        model: the original, a language model laid out in blocks.
        windows: token ids, int64 (windows, length).
        folder: for hidden states that are too many for memory.
        seed: of the labels.
        told: told how many windows behind the last block, and blocks, are done, and of how many.
    """
    shell, steps = Shell(model), len(windows) + len(model.blocks)
    limit = SPILL_BYTES // (len(model.blocks) + 1)
    bounds = forward(shell, list(windows[:, None]), rows_used(model, windows), folder, limit)
    slopes: list[Tensor] = []
    for _, _, slope in behind(shell, bounds[-1], seed):
        slopes.append(slope)
        told(len(slopes), steps)
    found: dict[str, Tensor] = {}
    for index in reversed(range(len(model.blocks))):
        parts = [part for part in model.parts if part.block == index]
        felt: dict[str, list[Tensor]] = {part.name: [] for part in parts}
        through(shell, index, bounds[index], slopes, parts, lambda n, x, g: felt[n].append(_square(g)))  # noqa: B023
        found |= {name: _even(torch.stack(squares), windows) for name, squares in felt.items()}
        model.drop(model.blocks[index])
        told(steps - index, steps)
    return found


def shared(found: Guide, share: float) -> Guide:
    """Weights of which a share is the guide's, and the rest alike for all tokens."""
    return {name: 1 - share + share * weights for name, weights in found.items()}


def _square(slope: Tensor) -> Tensor:
    return slope.detach().square().sum(-1).flatten()


def _even(squares: Tensor, windows: Tensor) -> Tensor:
    """Means of 1; a part that nothing of the output depends on has all tokens alike."""
    weights = squares.view(len(windows), -1, windows.shape[1]).sum(1)
    mean = weights.mean()
    return weights / mean if mean > 0 else torch.ones_like(weights)
