"""`Settings`: how a recommender is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tailorbird.errors import UsageError
from tailorbird.zoo.recommenders.item_vectors import Vectors
from tailorbird.zoo.recommenders.quantize import Quantizer

Loss = Literal["ce", "gbce", "bce", "bpr"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: at most.
        batch: rows of events at once.
        rate: of Adam.
        decay: of weights, decoupled (AdamW).
        loss: ``ce``: softmax; ``gbce``: sampled negatives with calibrated confidence; ``bce``, ``bpr``: as published,
            for DIN and LightGCN.
        negatives: a prediction, where a loss samples them.
        masked: share of events that are masked, for a bidirectional model.
        vectors: of items, where semantic ids come from: ``events`` around them, ``text`` of titles, ``both``.
        ids: how vectors become semantic ids: ``rq-vae`` or ``rq-kmeans``.
        every: epochs between two looks at validation.
        patience: looks without a better NDCG@10 before training ends.
        seed: of every random choice.
    """

    epochs: int = 100
    batch: int = 128
    rate: float = 1e-3
    decay: float = 0.0
    loss: Loss = "ce"
    negatives: int = 256
    masked: float = 0.2
    vectors: Vectors = "events"
    ids: Quantizer = "rq-vae"
    every: int = 1
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what can't be trained with.

        Raises:
            UsageError: a value out of range.
        """
        counts = (self.epochs, self.batch, self.negatives, self.every, self.patience)
        if min(counts) < 1 or self.rate <= 0 or not 0 < self.masked < 1 or self.loss not in get_args(Loss):
            losses = ", ".join(get_args(Loss))
            raise UsageError(f"can't train with {self}", hint=f"counts of 1 and more, a positive rate, loss {losses}")
        if self.vectors not in get_args(Vectors) or self.ids not in get_args(Quantizer):
            raise UsageError(
                f"vectors={self.vectors!r}, ids={self.ids!r}",
                hint=f"{', '.join(get_args(Vectors))}; {', '.join(get_args(Quantizer))}",
            )
