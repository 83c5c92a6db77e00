"""Llama and what is built like it: Mistral, Qwen 2 and 3, Phi-3."""

from tailorbird.anatomy.anatomy import Anatomy
from tailorbird.anatomy.wiring import ATTENTION, MLP, WRITERS, Wiring

LLAMA = Anatomy(
    name="llama-like",
    model_types=("llama", "mistral", "qwen2", "qwen3", "phi3"),
    blocks="model.layers",
    embedding="model.embed_tokens",
    head="lm_head",
    roles={"self_attn": "attention", "mlp": "mlp"},
    wiring=Wiring(norms={"input_layernorm": ATTENTION, "post_attention_layernorm": MLP}, writers=WRITERS),
)
