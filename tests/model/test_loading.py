"""Loading models by name: local folders, hub ids, and names that are nothing."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from trimlab.errors import InputError
from trimlab.model import loading
from trimlab.model.loading import about, base_dtype, load_model, load_tokenizer


@pytest.fixture(scope="session")
def stock_llama(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Path:
    """A tiny Llama as save_pretrained writes it, with a tokenizer that has no padding token."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_gguf.parent), gguf_file=tiny_gguf.name)
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"pad_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def folder(stock_llama: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama for a test to damage."""
    copy = tmp_path / "llama"
    copy.mkdir()
    for path in stock_llama.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_local_folder_is_loaded_ready_for_use(folder: Path) -> None:
    model, tokenizer = load_model(str(folder))

    expected = LlamaForCausalLM.from_pretrained(folder).state_dict()
    assert all(torch.equal(w, expected[name]) for name, w in model.state_dict().items())
    assert not model.training
    assert model.dtype == torch.float32
    assert model.config._attn_implementation == "sdpa"
    assert tokenizer.pad_token == tokenizer.eos_token
    assert model.generation_config is not None
    assert model.generation_config.pad_token_id == tokenizer.eos_token_id


def test_folder_without_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_model(str(folder))


@pytest.mark.parametrize("content", ['{"model_type": ', "null", "[]"])
def test_folder_with_damaged_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json .* is damaged"):
        load_model(str(folder))


def test_folder_with_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"no \*\.safetensors weights; pickled .* never loaded"):
        load_model(str(folder))


def test_pickled_weights_are_not_read_beside_safetensors(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    model, _ = load_model(str(folder))
    assert model.num_parameters() > 0


@pytest.mark.parametrize("content", ["cut off", "empty", "git-lfs pointer"])
def test_folder_with_damaged_weights(folder: Path, content: str) -> None:
    path = folder / "model.safetensors"
    damaged = {
        "cut off": path.read_bytes()[:-100],
        "empty": b"",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    path.write_bytes(damaged[content])
    for load in (load_model, base_dtype):
        with pytest.raises(InputError, match="cannot load") as error:
            load(str(folder))
        assert "\n" not in str(error.value)


def test_folder_with_a_missing_shard(folder: Path) -> None:
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink()
    max(folder.glob("model-*.safetensors")).unlink()
    with pytest.raises(InputError, match="cannot load"):
        load_model(str(folder))


def test_missing_weights_are_not_made_up(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    state = model.state_dict()
    lost = "model.layers.1.mlp.up_proj.weight"
    del state[lost]
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(InputError, match=f"lacks 1 weights .* {lost}"):
        load_model(str(folder))


def test_weights_of_another_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(InputError, match="cannot load"):
        load_model(str(folder))


def test_unknown_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "from_the_future"}))
    with pytest.raises(InputError, match="from_the_future"):
        load_model(str(folder))


def test_folder_without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        load_model(str(folder))


def test_folder_with_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot load"):
        load_tokenizer(str(folder))


def add_own_code(folder: Path) -> None:
    """Makes a folder bring its own configuration and model classes."""
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n"
        "    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n"
        "    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own", "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(config))


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    add_own_code(folder)
    (folder / "own.py").write_text("raise SystemExit('the code was run')")
    with pytest.raises(InputError, match=r"needs Python code .* trust_remote_code"):
        load_model(str(folder))


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_code_from_the_hub_is_not_used(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "someone/attention"}))
    model, _ = load_model(str(folder))
    assert model.config._attn_implementation == "sdpa"


def test_trusted_code_is_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    add_own_code(folder)
    model, _ = load_model(str(folder), trust_remote_code=True)
    assert type(model).__name__ == "OwnModel"


# --- hub ids and names that are nothing -------------------------------------------------------


@pytest.mark.parametrize("name", ["gemma-3-27m", "", "./gemma-3-270m", "/no/such/folder", "a/b/c"])
def test_unknown_name_lists_the_embedded_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match=r"no model .*gemma-3-270m"):
        load_model(name)


def test_hub_that_cannot_be_reached_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(InputError, match="no folder nobody/nothing") as error:
        load_model("nobody/nothing")

    message = str(error.value)
    assert message.endswith("name a local folder or an embedded model (gemma-3-270m, smollm2-135m)")
    assert "\n" not in message


def test_hub_model_is_downloaded_without_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo: str, **options: object) -> str:
        asked.append((repo, options))
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", download)
    model, _ = load_model("owner/name@refs/pr/7")

    ((repo, options),) = asked
    assert (repo, options["revision"]) == ("owner/name", "refs/pr/7")
    allowed = options["allow_patterns"]
    assert isinstance(allowed, list)
    assert "*.safetensors" in allowed
    assert not {"*", "*.bin", "*.pt"} & set(allowed)
    assert model.config.name_or_path == "owner/name@refs/pr/7"


def test_tokenizer_of_a_hub_model_needs_no_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(repo: str, *, allow_patterns: list[str], **_: object) -> str:
        assert "*.safetensors" not in allow_patterns
        return str(folder)

    monkeypatch.setattr(loading, "snapshot_download", download)
    assert load_tokenizer("owner/name").bos_token == "<bos>"


def test_about() -> None:
    gemma = about("gemma-3-270m")
    assert gemma.name == "gemma-3-270m"
    assert "Gemma Terms" in gemma.licence
    assert "dequantised from Q4_K_M" in gemma.note
    assert about("owner/name").note == ""


def test_a_tokenizer_alone_has_the_limits_of_its_model(
    tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    folder = tiny_folder(tmp_path, "opt", max_position_embeddings=96)
    _, tokenizer = load_model(str(folder))
    alone = load_tokenizer(str(folder))
    assert alone.model_max_length == tokenizer.model_max_length == 96
    assert alone.pad_token_id == tokenizer.pad_token_id
