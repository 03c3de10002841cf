"""OPT (`OPTForCausalLM`): learned positions, and no MLP module: fc1 and fc2 sit in the block.

The post-norm variant (OPT-350M) is refused: there each norm acts on the residual stream itself,
so a dropped sublayer is not the identity.
"""

from trimlab.model.family import Family, Layout

FAMILY = Family(
    blocks="model.decoder.layers",
    final_norm=("model.decoder.final_layer_norm", "model.decoder.project_out"),
    attention=Layout(("self_attn_layer_norm", "self_attn"), core="self_attn"),
    # fc1 is the one to silence: the activation of zero is zero, and fc2 becomes the identity
    mlp=Layout(("final_layer_norm", "fc1", "fc2"), core="fc1"),
    requires={"do_layer_norm_before": True},
    tiny={"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
)
