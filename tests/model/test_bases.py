"""Base models as people have them: adapters, faulty weights, generation settings, images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    Qwen2VLConfig,
)

from trimlab.errors import InputError
from trimlab.export.hf import save_packed
from trimlab.model.loading import base_dtype, load_model, load_tokenizer, model_folder
from trimlab.model.sublayers import Sublayer, SublayerStack
from trimlab.training.module import DomainLM

IDS = torch.arange(3, 43)[None]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path)


def write(folder: Path, file: str, **content: Any) -> None:
    """Sets entries of a JSON file of a folder."""
    path = folder / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | content))


def one_line(error: Any) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- adapters -----------------------------------------------------------------------------------


def test_a_leftover_adapter_is_not_applied_where_peft_is_installed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(folder), adapter).save_pretrained(folder)
    stock = AutoModelForCausalLM.from_pretrained(folder)  # what a merged model would get
    assert any("lora" in name for name, _ in stock.named_parameters())
    model, _ = load_model(str(folder))
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], w) for name, w in weights.items())
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert "without the adapter" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"remove adapter_config\.json"):
        model_folder(str(folder))  # other libraries would apply it


@pytest.mark.parametrize("config", [True, False])
def test_a_folder_with_only_an_adapter_says_how_to_merge(folder: Path, config: bool) -> None:
    write(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="owner/name")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    if not config:
        (folder / "config.json").unlink()
    for load in (load_model, load_tokenizer):
        with pytest.raises(InputError, match=r"only an adapter of owner/name.*merge") as error:
            load(str(folder))
        assert str(folder) in one_line(error)


# ---- weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"1 of 2048 entries of model\.layers\.2\.mlp\.up_proj"):
        load_model(str(folder))


def test_large_finite_weights_are_loaded(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][:] = 3e38  # their sum is infinite
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(str(folder))


def test_a_quantised_base_is_refused_before_it_is_read(folder: Path) -> None:
    write(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(InputError, match="is quantised .gptq.*give the model") as error:
        DomainLM(str(folder))
    assert str(folder) in one_line(error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_on_disk(tmp_path: Path, tiny_folder: Any, dtype: torch.dtype) -> None:
    folder = tiny_folder(tmp_path, dtype=dtype)
    assert base_dtype(str(folder)) == dtype
    assert load_model(str(folder))[0].dtype == torch.float32


# ---- settings that can be loaded and not saved --------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"temperature": None}),
        ({"temperature": 0.6, "repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"length_penalty": 2.0, "top_k": 3}, {"length_penalty": None, "top_k": None}),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
    ],
)
def test_a_generation_config_that_cannot_be_saved_is_mended_at_the_start(
    tmp_path: Path, folder: Path, settings: dict[str, Any], kept: dict[str, Any]
) -> None:
    write(folder, "generation_config.json", **settings)
    model, tokenizer = load_model(str(folder))
    stack = SublayerStack(model)
    stack.drop(Sublayer(0, "mlp"))
    save_packed(stack, tokenizer, tmp_path / "out")
    saved = GenerationConfig.from_pretrained(tmp_path / "out")
    assert {name: getattr(saved, name) for name in kept} == kept
    assert saved.eos_token_id == 2


# ---- models with images -------------------------------------------------------------------------

TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


@pytest.mark.parametrize("names", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_multimodal_gemma(
    tmp_path: Path, tiny_tokenizer: Any, names: str
) -> None:
    ids = {"image_token_index": 63, "boi_token_index": 62, "eoi_token_index": 61}
    ids |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, **ids)
    torch.manual_seed(0)
    whole = Gemma3ForConditionalGeneration(config).eval()
    folder = tmp_path / "gemma3"
    whole.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    before = "language_model.model."
    assert any(name.startswith(before) for name in weights)
    weights = {name.replace(before, names): weight for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    model, tokenizer = load_model(str(folder))
    with torch.no_grad():
        wanted = whole(input_ids=IDS, token_type_ids=torch.zeros_like(IDS)).logits
        torch.testing.assert_close(model(IDS).logits, wanted)
    assert tokenizer.model_max_length == 256
    stack = SublayerStack(model)
    stack.drop(Sublayer(1, "attention"), Sublayer(1, "mlp"))
    save_packed(stack, tokenizer, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3
    # by itself, as a run's model at full depth is saved
    load_model(str(folder))[0].save_pretrained(tmp_path / "whole")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(saved(IDS).logits, wanted)

    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "fp8"}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="multimodal and quantised"):
        load_model(str(folder))


def test_a_head_of_its_own_is_exported_whatever_the_config_says(
    tmp_path: Path, tiny_folder: Any
) -> None:
    folder = tiny_folder(tmp_path, "llama", tie_word_embeddings=False)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    model, tokenizer = load_model(str(folder))
    save_packed(SublayerStack(model), tokenizer, tmp_path / "out")
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(IDS).logits
        torch.testing.assert_close(exported, model(IDS).logits)


def test_a_multimodal_model_of_an_unknown_language_model_names_the_way_out(
    tmp_path: Path, folder: Path
) -> None:
    Qwen2VLConfig().save_pretrained(folder)
    with pytest.raises(InputError, match="multimodal.*text-only") as error:
        load_model(str(folder))
    assert str(folder) in one_line(error)
