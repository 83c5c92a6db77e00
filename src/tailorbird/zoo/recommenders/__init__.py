"""Recommenders over sequences of items, by name."""

from __future__ import annotations

from tailorbird.errors import UsageError
from tailorbird.zoo.recommenders.bert4rec import BERT4Rec
from tailorbird.zoo.recommenders.din import DIN
from tailorbird.zoo.recommenders.gru4rec import GRU4Rec
from tailorbird.zoo.recommenders.hytrec import HyTRec
from tailorbird.zoo.recommenders.lightgcn import LightGCN
from tailorbird.zoo.recommenders.model import Recommender
from tailorbird.zoo.recommenders.sasrec import SASRec
from tailorbird.zoo.recommenders.tiger import Tiger

KINDS: tuple[type[Recommender], ...] = (SASRec, GRU4Rec, BERT4Rec, DIN, LightGCN, HyTRec, Tiger)
RECOMMENDERS: dict[str, type[Recommender]] = {kind.name: kind for kind in KINDS}


def find(name: str) -> type[Recommender]:
    """A recommender by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RECOMMENDERS:
        raise UsageError(f"there is no recommender {name!r}", hint=f"there are: {', '.join(RECOMMENDERS)}")
    return RECOMMENDERS[name]
