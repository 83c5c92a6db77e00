"""Losses over the next item that look at a part of the catalogue; the one over all of it is `Recommender.surprise`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.zoo.recommenders.model import Recommender


def gbce(model: Recommender, state: Tensor, target: Tensor, negatives: int, t: float = 0.75) -> Tensor:
    """Binary cross-entropy with sampled negatives, the positive's probability to the power beta, which takes back
    the overconfidence that sampling brings (Petrov and Macdonald, gSASRec, arXiv 2308.07192, equation 12).

    Args:
        model: gives the item table.
        state: (n, width).
        target: int64 (n,).
        negatives: uniform ones a position; a right item among them is left as it is, as in the original.
        t: from 0, plain binary cross-entropy, to 1, as if all items were negatives.
    """
    items = model.shape.items
    drawn = torch.randint(1, items + 1, (len(target), negatives))
    table = model.items.weight
    right = (state * table[target]).sum(1)
    wrong = torch.einsum("nd,nkd->nk", state, table[drawn])
    alpha = negatives / (items - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    return -(beta * functional.logsigmoid(right) + functional.logsigmoid(-wrong).sum(1)).mean() / (negatives + 1)
