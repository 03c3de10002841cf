"""GPT-NeoX and Pythia (`GPTNeoXForCausalLM`): attention and MLP read the same input.

A parallel block packs only as a whole, since a stock block evaluates both on one input.
"""

from trimlab.model.family import Family, Layout

FAMILY = Family(
    blocks="gpt_neox.layers",
    final_norm=("gpt_neox.final_layer_norm",),
    attention=Layout(("input_layernorm", "attention"), core="attention"),
    mlp=Layout(("post_attention_layernorm", "mlp"), core="mlp"),
    parallel="use_parallel_residual",
    tiny={"hidden_dropout": 0.0, "attention_dropout": 0.0},
)
