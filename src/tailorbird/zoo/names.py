"""Names of a trunk's tensors where its layers were laid out for compression. No torch here: devices read it too."""

from __future__ import annotations


def trained_name(name: str, layers: int) -> str:
    """The name that a tensor of `zoo.recommenders.laid` has in a trained model, whose recurrent layers are whole."""
    block, _, leaf = name.removeprefix("blocks.").partition(".")
    if not name.startswith("blocks.") or leaf.split(".")[0] not in ("into", "over", "weight", "bias"):
        return name
    if int(block) == layers:
        return f"out.{leaf}"
    side, _, kind = leaf.partition(".")
    return f"gru.{kind}_{'ih' if side == 'into' else 'hh'}_l{block}"
