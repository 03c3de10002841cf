"""Where the models of each Hugging Face family have their sublayers: data, no code.

A family is one file in `families/`, named after its `model_type`, that defines `FAMILY`. Adding a
family means adding that file; the contract tests find it by its name.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PretrainedConfig

from trimlab.errors import InputError
from trimlab.plugins import plugin_module

FAMILIES = "trimlab.model.families"

Kind = Literal["attention", "mlp"]


@dataclass(frozen=True)
class Layout:
    """The modules of one sublayer inside its block.

    Attributes:
        modules: Attribute names in the order of the forward pass: the first module reads the
            residual stream, the output of the last is added to it.
        core: The module that outputs zero when the sublayer is dropped; the others are norms, or
            pass zero on.
    """

    modules: tuple[str, ...]
    core: str


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
        blocks: Dotted path from the `...ForCausalLM` to the list of decoder blocks.
        final_norm: Dotted paths of the modules between the last block and the LM head. Missing
            ones are skipped (OPT has a final norm and a projection in some sizes only).
        attention: Modules of the attention sublayer.
        mlp: Modules of the MLP sublayer.
        parallel: Name of the config flag that, when true, makes attention and MLP read the same
            input (GPT-NeoX); None where blocks are always sequential.
        requires: Config values without which dropping is not the residual identity.
        tiny: Extra config arguments for the tiny random models of the contract tests.
    """

    blocks: str = "model.layers"
    final_norm: tuple[str, ...] = ("model.norm",)
    attention: Layout = Layout(("input_layernorm", "self_attn"), core="self_attn")
    mlp: Layout = Layout(("post_attention_layernorm", "mlp"), core="mlp")
    parallel: str | None = None
    requires: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)

    def is_parallel(self, config: PretrainedConfig) -> bool:
        """Whether attention and MLP of a block read the same input."""
        return self.parallel is not None and bool(getattr(config, self.parallel))


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model.

    Args:
        config: The model's Hugging Face config.

    Returns:
        The `FAMILY` of the file named after `config.model_type`.

    Raises:
        InputError: No such file, or the config is of a variant that cannot be trimmed.
    """
    name = config.model_type
    hint = f". To add it, write one file: {FAMILIES.replace('.', '/')}/{name}.py"
    family: Family = plugin_module(FAMILIES, name, "model type", hint).FAMILY
    for key, value in family.requires.items():
        if getattr(config, key) != value:
            raise InputError(
                f"{name} with {key}={getattr(config, key)} cannot be trimmed: "
                f"bypassing a sublayer is the residual identity only where {key}={value}"
            )
    return family
