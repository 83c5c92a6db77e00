"""OPT: its decoder has learned positions, and the MLP's two layers stand in the block itself."""

from tailorbird.anatomy.anatomy import Anatomy

OPT = Anatomy(
    name="opt",
    model_types=("opt",),
    blocks="model.decoder.layers",
    embedding="model.decoder.embed_tokens",
    head="lm_head",
    roles={"self_attn": "attention", "fc1": "mlp", "fc2": "mlp"},
)
