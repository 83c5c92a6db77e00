"""OLMo and OLMo 2: blocks, embedding and head lie where Llama has them."""

from tailorbird.anatomy.anatomy import Anatomy

OLMO = Anatomy(
    name="olmo",
    model_types=("olmo", "olmo2"),
    blocks="model.layers",
    embedding="model.embed_tokens",
    head="lm_head",
    roles={"self_attn": "attention", "mlp": "mlp"},
)
