"""Gemma 1 to 3, text only."""

from tailorbird.anatomy.anatomy import Anatomy

GEMMA = Anatomy(
    name="gemma",
    model_types=("gemma", "gemma2", "gemma3_text"),
    blocks="model.layers",
    embedding="model.embed_tokens",
    head="lm_head",
    roles={"self_attn": "attention", "mlp": "mlp"},
)
