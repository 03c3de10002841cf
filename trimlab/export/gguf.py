"""GGUF for llama.cpp, and with it Ollama.

The architecture is the model's own; that of a llama with gaps is `deci`, whose blocks need no
attention (tier T3). A missing MLP is one of zeros there, too, and a narrow one.

Source: names and layout of tensors, https://github.com/ggml-org/llama.cpp (gguf-py, conversion/).
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trimlab.engines._engine import load_engine
from trimlab.errors import InputError
from trimlab.export._format import ExportFormat
from trimlab.export._modelfile import modelfile
from trimlab.export._packing import PackedBlock, Tier, pack, packed_config, packed_state, tier_of
from trimlab.model.sublayers import SublayerStack

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE = "model.gguf"

# model_type -> llama.cpp's architecture
_ARCHITECTURES = {
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
_GEMMA = ("gemma2", "gemma3")  # the architectures with sliding windows by block
_INTERLEAVED = ("llama", "deci")  # those with rotary pairs side by side
_DEAD_WIDTH = 32  # of an MLP of zeros in deci, which would leave out the attention of no MLP


class Gguf(ExportFormat):
    """One GGUF file with weights and tokenizer."""

    engine = "llama.cpp"
    compressions = ("q8_0", "q4_k_m", "float16", "bfloat16", "float32")

    def check(self, stack: SublayerStack) -> None:
        """Refuses other architectures than llama.cpp's, see `ExportFormat.check`."""
        super().check(stack)
        config: Any = stack.model.config
        name = config.model_type
        if name not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise InputError(f"gguf holds no {name}; it holds {known}. Export it with --to hf")
        if find_spec("gguf") is None:
            raise InputError("gguf is not installed: pip install 'trimlab[gguf]'")
        load_engine(self.engine).check()
        window = getattr(config, "sliding_window", None)
        types = getattr(config, "layer_types", None) or ["sliding_attention"]
        if _ARCHITECTURES[name] not in _GEMMA and window and "sliding_attention" in types:
            raise InputError(
                f"llama.cpp computes {name} without its sliding window of {window} tokens: export "
                "with --to hf, or set sliding_window to null in config.json if no text is longer"
            )
        for rope in _ropes(config).values():
            kind = rope.get("rope_type", "default")
            if kind not in ("default", "linear", "llama3"):
                raise InputError(f"no rotary positions of type {kind} in gguf; export with --to hf")

    def saved_dtype(self, stack: SublayerStack, dtype: str | None) -> torch.dtype:
        """The type in memory: llama.cpp converts it to any other."""
        return torch.float32 if stack.model.dtype == torch.float64 else stack.model.dtype

    def tier(self, stack: SublayerStack) -> tuple[Tier, int]:
        """See `ExportFormat.tier`."""
        tier, blocks = super().tier(stack)
        deci = _architecture(stack.model.config, pack(stack)) == "deci"
        return ("T3" if deci else tier), blocks

    def rounding(self, stack: SublayerStack) -> float:
        """llama.cpp reads GELU, which Gemma has, from a table in float16."""
        return 4e-3 if _ARCHITECTURES[stack.model.config.model_type] in _GEMMA else 0.0

    def save(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        """Writes the GGUF file, and a Modelfile for Ollama, see `ExportFormat.save`."""
        from gguf import GGUFWriter

        from trimlab.export._gguf_tokenizer import add_tokenizer

        blocks = pack(stack)
        config: Any = packed_config(stack, blocks)
        arch = _architecture(config, blocks)
        writer = GGUFWriter(folder / FILE, arch)
        _add_config(writer, config, arch)
        state = packed_state(stack, blocks)
        if arch == "deci":
            _add_gaps(writer, config, blocks)
            state = _without_gaps(state, blocks)
        add_tokenizer(writer, tokenizer, arch, config.vocab_size)
        for name, weight in _tensors(state, config, arch):
            _add_tensor(writer, name, weight, dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "Modelfile").write_text(modelfile(FILE, tokenizer), encoding="utf-8")

    def compress(self, folder: Path, dtype: str) -> None:
        """Converts the matrices, see `ExportFormat.compress`."""
        from trimlab.export._gguf_types import convert

        whole = (folder / FILE).rename(folder / "whole.gguf")
        convert(whole, folder / FILE, dtype)
        whole.unlink()

    def start(self, folder: Path) -> list[str]:
        """See `ExportFormat.start`."""
        file = folder / FILE
        return [
            f"llama-server -m {file}",
            f"llama-cli -m {file}",
            f"ollama create {folder.name} -f {folder / 'Modelfile'} && ollama run {folder.name}",
        ]


def _architecture(config: Any, blocks: list[PackedBlock]) -> str:
    """llama.cpp's architecture of a packed model."""
    arch = _ARCHITECTURES[config.model_type]
    biased = any(getattr(config, name, False) for name in ("attention_bias", "mlp_bias"))
    return "deci" if arch == "llama" and tier_of(blocks) == "T2" and not biased else arch


def _has_attention(index: int, block: PackedBlock) -> bool:
    """Whether a block of deci has an attention; the first one must, of zeros if need be."""
    return index == 0 or block.attention is not None


def _add_gaps(writer: "GGUFWriter", config: Any, blocks: list[PackedBlock]) -> None:
    """Adds the sizes of the sublayers of each block."""
    there = [_has_attention(i, block) for i, block in enumerate(blocks)]
    writer.add_head_count([config.num_attention_heads * found for found in there])
    writer.add_head_count_kv([config.num_key_value_heads * found for found in there])
    writer.add_feed_forward_length(
        [config.intermediate_size if block.mlp else _DEAD_WIDTH for block in blocks]
    )


def _without_gaps(state: dict[str, Tensor], blocks: list[PackedBlock]) -> dict[str, Tensor]:
    """The weights of a packed llama without attentions of zeros, and narrow MLPs of zeros."""
    kept = dict(state)
    for i, block in enumerate(blocks):
        for name in [name for name in state if name.startswith(f"model.layers.{i}.")]:
            if not _has_attention(i, block) and (".self_attn." in name or "input_lay" in name):
                del kept[name]
            elif block.mlp is None and ".mlp." in name:
                down = "down_proj" in name
                kept[name] = state[name][:, :_DEAD_WIDTH] if down else state[name][:_DEAD_WIDTH]
    return kept


def _add_config(writer: "GGUFWriter", config: Any, arch: str) -> None:
    """Adds the sizes and constants of the architecture."""
    head = _head_size(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    if arch != "deci":
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_file_type(0)
    ropes = _ropes(config)
    rope = ropes["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        from gguf import RopeScalingType

        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if arch in _GEMMA:
        writer.add_rope_freq_base_swa(ropes["sliding_attention"]["rope_theta"])
        writer.add_sliding_window(config.sliding_window)
        # by block: without it, llama.cpp takes the type of an attention from its position
        sliding = [kind == "sliding_attention" for kind in config.layer_types]
        writer.add_sliding_window_pattern(sliding)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)


def _tensors(state: dict[str, Tensor], config: Any, arch: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a packed model as llama.cpp has them."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    key = next(key for key in MODEL_ARCH if MODEL_ARCH_NAMES[key] == arch)
    names = get_tensor_name_map(key, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in state.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise RuntimeError(f"gguf has no name for the tensor {name}")
        part = name.split(".")[-2]
        if arch in _INTERLEAVED and part in heads:
            weight = _interleaved(weight, heads[part])
        if arch in _GEMMA and part.endswith("norm"):
            weight = weight + 1  # the models of transformers multiply by 1 + weight
        if arch in _GEMMA and part == ("q_norm" if arch == "gemma3" else "q_proj"):
            # llama.cpp divides queries by the root of the head's size whatever the config says
            weight = weight * (_head_size(config) / config.query_pre_attn_scalar) ** 0.5
        yield new, weight
    rope = _ropes(config)["full_attention"]
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config, rope)


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in llama.cpp's order of rotary pairs.  # (H * D, ...)

    transformers rotates row i with row i + D / 2 of a head, llama.cpp 2 i with 2 i + 1.
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _llama3_factors(config: PreTrainedConfig, rope: dict[str, Any]) -> Tensor:
    """By what the rotary frequencies of Llama 3.1 and later are divided.  # (D / 2,)"""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    head = _head_size(config)
    plain = rope["rope_theta"] ** -(torch.arange(0, head, 2, dtype=torch.float32) / head)
    return plain / scaled


def _add_tensor(writer: "GGUFWriter", name: str, weight: Tensor, dtype: torch.dtype) -> None:
    """Adds a tensor; vectors stay in float32, as llama.cpp wants them."""
    from gguf import GGMLQuantizationType

    if weight.ndim == 1 or dtype == torch.float32:
        writer.add_tensor(name, weight.detach().float().cpu().numpy())
    elif dtype == torch.float16:
        writer.add_tensor(name, weight.detach().half().cpu().numpy())
    else:
        raw = weight.detach().bfloat16().cpu().contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, raw, raw_dtype=GGMLQuantizationType.BF16)


def _head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _ropes(config: Any) -> dict[str, dict[str, Any]]:
    """The rotary parameters of each type of attention."""
    rope = config.rope_parameters
    if "rope_theta" in rope:
        return {"full_attention": rope, "sliding_attention": rope}
    return rope
