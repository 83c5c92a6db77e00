"""Gemma 1 to 3, text only. Norms multiply by one plus their weight; from Gemma 2 on, what a layer adds to the residual
stream is normed too."""

from dataclasses import replace

from tailorbird.anatomy.anatomy import Anatomy
from tailorbird.anatomy.wiring import ATTENTION, MLP, WRITERS, Wiring

GEMMA = Anatomy(
    name="gemma",
    model_types=("gemma",),
    blocks="model.layers",
    embedding="model.embed_tokens",
    head="lm_head",
    roles={"self_attn": "attention", "mlp": "mlp"},
    wiring=Wiring(norms={"input_layernorm": ATTENTION, "post_attention_layernorm": MLP}, writers=WRITERS, unit=0.0),
)
GEMMA_2 = replace(
    GEMMA,
    name="gemma 2 and 3",
    model_types=("gemma2", "gemma3_text"),
    wiring=Wiring(norms={"input_layernorm": ATTENTION, "pre_feedforward_layernorm": MLP}, unit=0.0),
)
