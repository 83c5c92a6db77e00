"""Least squares and coordinate descent around the compensation sweep.

GPTQ (arXiv 2210.17323) rounds each column once and never looks back. Here a group of columns is rounded as there, but
then its codes are visited again, each moved to the nearest code given all others (coordinate descent, as QuantEase and
CDQuant have it, arXiv 2309.01885 and 2406.17542), and its numbers (scales and offsets) are fitted to the codes by least
squares under the same metric, in turns; rows keep the best of what they met. When all groups are coded, the same two
steps go over them again under the whole Gram matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailorbird.fit.coders import Coder


@dataclass(frozen=True)
class Schedule:
    """How often what is done.

    Attributes:
        rounds: turns of codes and numbers when a group is met.
        descents: visits of each code in such a turn.
        passes: over the whole weight at the end.
    """

    rounds: int = 1
    descents: int = 0
    passes: int = 2


@dataclass
class Group:
    """A coded group of columns.

    Attributes:
        numbers: (k, rows), as stored.
        codes: whole numbers as float32 (group, rows).
        values: what they stand for.
    """

    numbers: Tensor
    codes: Tensor
    values: Tensor

    def take(self, other: Group, better: Tensor) -> None:
        """Take some rows from another; better is bool (rows,)."""
        self.numbers = torch.where(better, other.numbers, self.numbers)
        self.codes = torch.where(better, other.codes, self.codes)
        self.values = torch.where(better, other.values, self.values)


def code_rows(w: Tensor, coders: Sequence[Coder], gram: Tensor, upper: Tensor, how: Schedule) -> list[Group]:
    """Code some rows of a weight.

    Args:
        w: float32 (cols, rows).
        coders: of its groups, all of one size.
        gram: float32 (cols, cols), damped.
        upper: its `sweep_factor`.
        how: how often.
    """
    size = len(w) // len(coders)
    target, groups = w.clone(), []
    for g, coder in enumerate(coders):
        own, later = slice(g * size, (g + 1) * size), slice((g + 1) * size, len(w))
        factor = upper[own, own]
        root = torch.linalg.solve_triangular(factor, torch.eye(size), upper=True)
        group = _met(target[own], coder, factor, root, how)
        groups.append(group)
        errors = root.T @ (target[own] - group.values)
        target[later].addmm_(upper[own, later].T, errors, alpha=-1)
    if how.passes:
        _again(w, coders, groups, gram, how.passes)
    return groups


def _met(w: Tensor, coder: Coder, factor: Tensor, root: Tensor, how: Schedule) -> Group:
    """Code a group whose weights have met the errors of all earlier ones."""
    metric, target = root @ root.T, root.T @ w
    numbers = coder.snap(coder.start(w))
    best, least = None, torch.empty(0)
    for turn in range(how.rounds + 1):
        group = _swept(w, coder, numbers, factor)
        rest = metric @ (w - group.values) if how.descents else w
        for _ in range(how.descents):
            _descend(group, coder, metric, rest)
        loss = (root.T @ (w - group.values)).square().sum(0)
        if best is None:
            best, least = group, loss
        else:
            best.take(group, loss < least)
            least = torch.minimum(least, loss)
        if turn < how.rounds:
            numbers = coder.snap(coder.solve(group.codes, numbers, root, target))
    assert best is not None
    return best


def _swept(w: Tensor, coder: Coder, numbers: Tensor, factor: Tensor) -> Group:
    """Round column after column; later ones make up for the error."""
    w, codes, values, nearest = w.clone(), torch.empty_like(w), torch.empty_like(w), coder.nearest(numbers)
    for j in range(len(w)):
        codes[j], values[j] = nearest(w[j])
        error = (w[j] - values[j]).div_(factor[j, j])
        w[j + 1 :].addr_(factor[j, j + 1 :], error, alpha=-1)
    return Group(numbers, codes, values)


def _descend(group: Group, coder: Coder, metric: Tensor, rest: Tensor) -> None:
    """Move each code to the nearest given all others; `rest` (group, rows) is the metric times what the values miss."""
    nearest = coder.nearest(group.numbers)
    for j in range(len(metric)):
        code, value = nearest(torch.add(group.values[j], rest[j], alpha=1 / float(metric[j, j])))
        rest.addr_(metric[j], value - group.values[j], alpha=-1)
        group.codes[j], group.values[j] = code, value


def _again(w: Tensor, coders: Sequence[Coder], groups: Sequence[Group], gram: Tensor, passes: int) -> None:
    """Numbers and codes of every group anew, given all other groups."""
    size = len(w) // len(groups)
    rest = gram @ (w - torch.cat([group.values for group in groups]))
    for _ in range(passes):
        for g, (coder, group) in enumerate(zip(coders, groups, strict=True)):
            own = slice(g * size, (g + 1) * size)
            before, metric, mine = group.values.clone(), gram[own, own], rest[own].clone()
            _refit(group, coder, metric, mine)
            _descend(group, coder, metric, mine)
            rest.addmm_(gram[:, own], group.values - before, alpha=-1)


def _refit(group: Group, coder: Coder, metric: Tensor, rest: Tensor) -> None:
    """Other numbers for the same codes, in the rows that they do good; `rest` follows."""
    root = torch.linalg.cholesky(metric)
    # L^T d, of which the loss is the square, from `rest` = L L^T d.
    missed = torch.linalg.solve_triangular(root, rest, upper=False)
    numbers = coder.snap(coder.solve(group.codes, group.numbers, root, missed + root.T @ group.values))
    change = coder.values(group.codes, numbers) - group.values
    better = ((2 * rest - metric @ change) * change).sum(0) > 0
    change *= better
    rest.addmm_(metric, change, alpha=-1)
    group.numbers = torch.where(better, numbers, group.numbers)
    group.values += change
