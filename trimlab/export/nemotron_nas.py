"""Nemotron-NAS (DeciLM): blocks that lack a sublayer, for vLLM (tier T3).

Source: DeciLM in vLLM, https://github.com/vllm-project/vllm (models/nemotron_nas.py).
"""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.engines import _decilm_config
from trimlab.engines._engine import DECILM_CODE, LoadedModel, load_engine
from trimlab.errors import InputError
from trimlab.export._format import ExportFormat
from trimlab.export._packing import PackedBlock, Tier, pack, packed_config, packed_state
from trimlab.model.sublayers import SublayerStack


class NemotronNas(ExportFormat):
    """Blocks in which a dropped sublayer is a no-op without weights."""

    engine = "vllm"

    def check(self, stack: SublayerStack) -> None:
        """Refuses models that are not LLaMA's block, see `ExportFormat.check`."""
        super().check(stack)
        config: Any = stack.model.config
        types = getattr(config, "layer_types", None) or []
        window = getattr(config, "sliding_window", None)
        if config.model_type not in ("llama", "mistral", "qwen2"):
            raise InputError(
                f"nemotron-nas holds llama, mistral and qwen2, no {config.model_type}; export it "
                "with --to hf"
            )
        if "sliding_attention" in types or (config.model_type == "mistral" and window):
            raise InputError(
                "nemotron-nas has no sliding windows; export with --to hf, or set sliding_window "
                "to null in config.json if no text is longer"
            )
        if next(iter(stack)).kind != "attention":
            raise InputError(
                "the first remaining sublayer must be an attention in nemotron-nas, and it is an "
                "MLP: vLLM cannot run that; export with --to hf"
            )

    def tier(self, stack: SublayerStack) -> tuple[Tier, int]:
        """T3 where blocks lack a sublayer, see `ExportFormat.tier`."""
        tier, blocks = super().tier(stack)
        return ("T3" if tier == "T2" else tier), blocks

    def room(self, stack: SublayerStack, saved: torch.dtype, dtype: str | None) -> int:
        """See `ExportFormat.room`; the copy that `load` makes comes beside it."""
        return 2 * super().room(stack, saved, dtype)

    def save(
        self,
        stack: SublayerStack,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path,
        dtype: torch.dtype,
    ) -> None:
        """Writes config, its class, weights and tokenizer, see `ExportFormat.save`."""
        blocks = pack(stack)
        plain: Any = packed_config(stack, blocks)
        width = -(-plain.intermediate_size // 256) * 256
        config = plain.to_dict() | {
            "architectures": ["DeciLMForCausalLM"],
            "auto_map": {"AutoConfig": f"{Path(DECILM_CODE).stem}.DeciLMConfig"},
            "model_type": "nemotron-nas",
            "dtype": str(dtype).removeprefix("torch."),
            "intermediate_size": width,
            "attention_bias": _has_biases(plain),
            "block_configs": [_block_config(plain, block, width) for block in blocks],
        }
        for key in ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers"):
            config.pop(key, None)
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        shutil.copyfile(_decilm_config.__file__, folder / DECILM_CODE)
        tokenizer.save_pretrained(folder)
        state = packed_state(stack, blocks)
        if _has_biases(plain):  # vLLM wants one behind an attention, too
            zeros = torch.zeros(plain.hidden_size)
            for i in range(len(blocks)):
                state.setdefault(f"model.layers.{i}.self_attn.o_proj.bias", zeros.clone())
        state = _without_dead(state, blocks, plain, width)
        save_torch_state_dict({n: w.to(dtype).contiguous() for n, w in state.items()}, folder)

    def load(self, folder: Path, trimmed: PreTrainedModel) -> LoadedModel:
        """Loads it as a stock model: the weights of the folder, and zeros where it has none."""
        from safetensors.torch import load_file

        state: dict[str, Tensor] = {}
        for file in folder.glob("*.safetensors"):
            state |= load_file(file)
        config: Any = type(trimmed.config)(**trimmed.config.to_dict())
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config.num_hidden_layers = len(written["block_configs"])
        config.intermediate_size = written["intermediate_size"]
        if getattr(config, "layer_types", None):
            config.layer_types = ["full_attention"] * config.num_hidden_layers
        with torch.device("meta"):
            template = type(trimmed)(config)  # type: ignore[arg-type]
        dtype = next(iter(state.values())).dtype
        names = template.state_dict()
        for name in set(names) - set(state) - set(template.all_tied_weights_keys):
            state[name] = torch.zeros(names[name].shape, dtype=dtype)
        state = {name: weight for name, weight in state.items() if name in names}
        with TemporaryDirectory(dir=folder) as place:  # where a kill leaves it, it is removed, too
            config.save_pretrained(place)
            save_torch_state_dict(state, place)
            return load_engine("transformers").load(Path(place), dtype=trimmed.dtype)

    def start(self, folder: Path) -> list[str]:
        """See `ExportFormat.start`."""
        return [f"vllm serve {folder} --trust-remote-code"]


def _has_biases(config: Any) -> bool:
    """Whether queries, keys and values have biases, of which the config of qwen2 says nothing."""
    return config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))


def _block_config(config: Any, block: PackedBlock, width: int) -> dict[str, Any]:
    """An entry of `block_configs`."""
    group = config.num_attention_heads // config.num_key_value_heads
    no_attention, no_mlp = block.attention is None, block.mlp is None
    return {
        "attention": {
            "n_heads_in_group": None if no_attention else group,
            "no_op": no_attention,
            "replace_with_linear": False,
        },
        "ffn": {
            # vLLM: the width is 2 / 3 of it times the hidden size, rounded up to 256
            "ffn_mult": None if no_mlp else 1.5 * (width - 128) / config.hidden_size,
            "no_op": no_mlp,
            "replace_with_linear": False,
        },
    }


def _without_dead(
    state: dict[str, Tensor], blocks: list[PackedBlock], config: Any, width: int
) -> dict[str, Tensor]:
    """The weights without those of dead sublayers, MLPs padded with zeros to a width."""
    dead = [
        f"model.layers.{i}.{name}."
        for i, block in enumerate(blocks)
        for sublayer, names in (
            (block.attention, ("input_layernorm", "self_attn")),
            (block.mlp, ("post_attention_layernorm", "mlp")),
        )
        if sublayer is None
        for name in names
    ]
    more = width - config.intermediate_size
    kept = {}
    for name, weight in state.items():
        if name.startswith(tuple(dead)):
            continue
        if more and ".mlp." in name:
            down = "down_proj" in name
            if not (down and name.endswith("bias")):
                columns = (0, more) if down else (0, 0, 0, more)
                weight = pad(weight, columns if weight.ndim == 2 else (0, more))
        kept[name] = weight
    return kept
