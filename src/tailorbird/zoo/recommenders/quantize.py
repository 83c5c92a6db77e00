"""Semantic ids: a short row of codes an item, like items sharing the first ones.

A vector is rounded to the nearest of a book of vectors, what is left of it to the nearest of a second book, and so on
(residual quantization); a last code tells apart items whose codes are otherwise equal. The books are found by k-means
on the vectors, or learned with an encoder around them: RQ-VAE (Lee et al., arXiv 2203.01941; Rajput et al., arXiv
2305.05065).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.errors import DataError
from tailorbird.tasks.sequences.dataset import Ints
from tailorbird.zoo.recommenders.item_vectors import Floats

Quantizer = Literal["rq-vae", "rq-kmeans"]
LATENT, COMMITMENT, EPOCHS, BATCH, RATE = 32, 0.25, 100, 1024, 1e-3


def semantic_ids(vectors: Floats, levels: int, size: int, quantizer: Quantizer, seed: int) -> Ints:
    """Codes of items, no two rows alike.

    Args:
        vectors: float32 (items, width).
        levels: codes an item; the last one only tells apart.
        size: of every book.
        quantizer: how the books are found.
        seed: of its random choices.

    Returns:
        int64 (items, levels), from 0 to size - 1.
    """
    if quantizer == "rq-vae":
        model = trained(vectors, levels - 1, size, seed)
        with torch.no_grad():
            codes = model.quantized(model.encoder(torch.from_numpy(vectors)))[0].numpy()
    else:
        codes = residual_kmeans(vectors, levels - 1, size, seed)[0]
    return told_apart(codes, size)


def residual_kmeans(vectors: Floats, levels: int, size: int, seed: int) -> tuple[Ints, Floats]:
    """Books by k-means, each on what the ones before it left.

    Returns:
        Codes, int64 (items, levels), and books, float32 (levels, size, width): a vector is nearly the sum of its rows.
    """
    random, left = np.random.default_rng(seed), vectors.copy()
    codes, books = np.empty((len(vectors), levels), np.int64), np.empty((levels, size, vectors.shape[1]), np.float32)
    for level in range(levels):
        books[level] = kmeans(left, size, random)
        codes[:, level] = nearest(left, books[level])
        left -= books[level][codes[:, level]]
    return codes, books


def kmeans(points: Floats, size: int, random: np.random.Generator, rounds: int = 30) -> Floats:
    """Centres of `size` clusters, float32 (size, width), from starts far apart (k-means++). Where there are fewer
    different points, the rest of the centres equal the first."""
    centres = np.repeat(points[random.integers(len(points))][None], size, axis=0)
    distance = ((points - centres[0]) ** 2).sum(1)
    for i in range(1, size):
        if distance.max() <= 1e-12:
            break
        centres[i] = points[random.choice(len(points), p=distance / distance.sum())]
        distance = np.minimum(distance, ((points - centres[i]) ** 2).sum(1))
    for _ in range(rounds):
        mine = nearest(points, centres)
        counts = np.bincount(mine, minlength=size)
        sums = csr_matrix((np.ones(len(mine)), (mine, np.arange(len(mine)))), (size, len(mine))) @ points
        centres[counts > 0] = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return centres


def nearest(points: Floats, centres: Floats) -> Ints:
    """The nearest centre of every point, int64 (points,); of equals the first."""
    found: Ints = ((centres**2).sum(1) - 2 * points @ centres.T).argmin(1).astype(np.int64)
    return found


def told_apart(codes: Ints, size: int) -> Ints:
    """Codes with one more, 0, 1, ... among items whose codes are equal; (items, levels + 1). Where more than `size`
    items share theirs, the rest go on to the next codes that have room.

    Raises:
        DataError: there are more items than rows of codes.
    """
    if len(codes) > size ** (codes.shape[1] + 1):
        raise DataError(f"{len(codes)} items for rows of {codes.shape[1] + 1} codes of {size}", hint="more levels")
    taken: dict[int, int] = {}
    out = np.empty((len(codes), codes.shape[1] + 1), np.int64)
    scale = size ** np.arange(codes.shape[1])[::-1]
    for i, number in enumerate((codes * scale).sum(1).tolist()):
        while taken.get(number, 0) == size:
            number = (number + 1) % size ** codes.shape[1]
        out[i, :-1], out[i, -1] = number // scale % size, taken.get(number, 0)
        taken[number] = taken.get(number, 0) + 1
    return out


class RQVAE(nn.Module):
    """An autoencoder whose code is a sum of one row of each book."""

    def __init__(self, width: int, levels: int, size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, LATENT))
        self.decoder = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, width))
        self.books = nn.Parameter(torch.zeros(levels, size, LATENT))

    def quantized(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes int64 (n, levels), the sum of their rows (n, `LATENT`), and the loss that draws rows and latents to
        each other, the latents `COMMITMENT` times as much."""
        left, codes, lost = latent, [], latent.new_zeros(())
        for book in self.books:
            code = ((book**2).sum(1) - 2 * left.detach() @ book.detach().T).argmin(1)
            row = book[code]
            lost = lost + functional.mse_loss(row, left.detach()) + COMMITMENT * functional.mse_loss(left, row.detach())
            left = left - row.detach()
            codes.append(code)
        return torch.stack(codes, 1), (latent - left).detach(), lost

    def loss(self, vectors: Tensor) -> Tensor:
        """Of reconstruction, past the rounding as if it were not there, and of the books."""
        latent = self.encoder(vectors)
        _, rounded, lost = self.quantized(latent)
        back = self.decoder(latent + (rounded - latent).detach())
        return functional.mse_loss(back, vectors) * vectors.shape[1] + lost


def trained(vectors: Floats, levels: int, size: int, seed: int) -> RQVAE:
    """An RQ-VAE of vectors (items, width), its books begun with k-means on its first latents."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, data = RQVAE(vectors.shape[1], levels, size), torch.from_numpy(vectors)
        with torch.no_grad():
            start = residual_kmeans(model.encoder(data).numpy(), levels, size, seed)[1]
            model.books.copy_(torch.from_numpy(start))
        optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
        for _ in range(EPOCHS):
            for some in torch.split(torch.randperm(len(data)), BATCH):
                optimiser.zero_grad(set_to_none=True)
                model.loss(data[some]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return model.eval()
