"""Loading models by name.

The embedded model is 250 MB and takes a minute to build, so most tests build a tiny one: a GGUF
file of the same architecture and the same kind of tokenizer, in two parts, in two packages. Tests
of the real one are marked slow.
"""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, TokenType, dequantize
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from trimlab.errors import InputError
from trimlab.model import embedded as embedded_models
from trimlab.model import loading
from trimlab.model.embedded import (
    EMBEDDED_MODELS,
    EmbeddedModel,
    cache_root,
    embedded_model,
    embedded_names,
    find_part,
    join_parts,
)
from trimlab.model.gguf_tokens import PROBES, SPACE, GgufTokens, check_tokenizer
from trimlab.model.loading import about, load_model, load_tokenizer

SENTENCES = (
    "The human heart has four chambers, and the left ventricle pumps blood into the aorta.",
    "Mesophiles grow best in moderate temperature, typically between 25°C and 40°C (77°F - 104°F).",
    "Question: What type of organism is commonly used in cheese and yogurt?\nAnswer: mesophilic",
    "Two  spaces, then   three,\tand a tab.\n\n\n  Indented:\n" + " " * 77 + "x" + " " * 31,
)


# --- a tiny embedded model --------------------------------------------------------------------


def tiny_vocabulary() -> list[tuple[str, float, TokenType]]:
    """Tokens, scores and types: longer words have worse scores, runs of 2 and 3 spaces exist."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = ["he", "ar", "th", "the", "hear", "heart", "art", "▁h", "▁he", "▁heart", "▁the"]
    return [
        *((token, -1000.0, TokenType.CONTROL) for token in control),
        *((token, -1000.0, TokenType.USER_DEFINED) for token in ("\n", "\n\n", "  ", "   ", "<b>")),
        *((f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)),
        *((token, -float(i), TokenType.NORMAL) for i, token in enumerate(words)),
        *((token, -100.0 - i, TokenType.NORMAL) for i, token in enumerate("▁abehrtx")),
    ]


def write_tiny_gguf(path: Path) -> dict[str, np.ndarray]:
    """Writes a Gemma-3 of two blocks with random float32 weights, which it returns."""
    rng = np.random.default_rng(0)
    hidden, heads, head_dim, feed_forward, blocks = 32, 2, 16, 64, 2
    vocabulary = tiny_vocabulary()
    writer = GGUFWriter(path, "gemma3")
    writer.add_name("tiny")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(64)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([kind for _, _, kind in vocabulary])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)

    block = {
        "attn_norm": (hidden,),
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (head_dim, hidden),
        "attn_v": (head_dim, hidden),
        "attn_q_norm": (head_dim,),
        "attn_k_norm": (head_dim,),
        "attn_output": (hidden, heads * head_dim),
        "post_attention_norm": (hidden,),
        "ffn_norm": (hidden,),
        "ffn_gate": (feed_forward, hidden),
        "ffn_up": (feed_forward, hidden),
        "ffn_down": (hidden, feed_forward),
        "post_ffw_norm": (hidden,),
    }
    shapes = {"token_embd": (len(vocabulary), hidden), "output_norm": (hidden,)}
    shapes |= {f"blk.{i}.{name}": shape for i in range(blocks) for name, shape in block.items()}
    weights = {
        f"{name}.weight": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


@pytest.fixture
def tiny(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmbeddedModel]:
    """Offers the embedded model "tiny-gemma" in two packages, with an empty cache."""
    whole, site = tiny_gguf.read_bytes(), tmp_path / "site"
    for part, content in (("tiny_part1", whole[:5000]), ("tiny_part2", whole[5000:])):
        (site / part / "data").mkdir(parents=True)
        (site / part / "__init__.py").write_text("raise RuntimeError('nobody imports me')")
        (site / part / "data" / "tiny.gguf").write_bytes(content)
    # adding an embedded model means adding its file
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny_gemma.py").write_text(
        "from trimlab.model.embedded import EmbeddedModel\n"
        "MODEL = EmbeddedModel(\n"
        "    package='tiny-gguf',\n"
        "    parts=(('tiny_part1', 'data/tiny.gguf'), ('tiny_part2', 'data/tiny.gguf')),\n"
        f"    sha256='{hashlib.sha256(whole).hexdigest()}',\n"
        "    licence='none',\n"
        "    note='random weights',\n"
        ")\n"
    )
    folder = importlib.import_module(EMBEDDED_MODELS)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path / "models")])
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("TRIMLAB_CACHE", str(tmp_path / "cache"))
    yield embedded_model("tiny-gemma")
    del sys.modules[f"{EMBEDDED_MODELS}.tiny_gemma"]


@pytest.mark.parametrize("name", embedded_names())
def test_every_embedded_model_says_what_it_is(name: str) -> None:
    model = embedded_model(name)
    assert len(bytes.fromhex(model.sha256)) == 32
    assert model.package and model.parts and model.licence and model.note
    assert about(name) == loading.ModelInfo(name, model.licence, model.note)


def test_embedded_model_has_the_weights_of_the_gguf_file(
    tiny: EmbeddedModel, tmp_path: Path
) -> None:
    weights = write_tiny_gguf(tmp_path / "again.gguf")

    model, _ = load_model("tiny-gemma")

    state = model.state_dict()
    projection = state["model.layers.1.self_attn.q_proj.weight"].numpy()
    norm = state["model.layers.0.post_feedforward_layernorm.weight"].numpy()
    np.testing.assert_array_equal(projection, weights["blk.1.attn_q.weight"])
    # GGUF holds Gemma's norms with the 1 that the model adds to them.
    np.testing.assert_allclose(norm + 1, weights["blk.0.post_ffw_norm.weight"], rtol=1e-6)
    assert {weight.dtype for weight in state.values()} == {torch.float32}
    assert model.config.model_type == "gemma3_text"
    assert model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")
    assert not model.training
    assert model.config.name_or_path == "tiny-gemma"


def test_embedded_tokenizer_adds_bos_and_keeps_runs_of_spaces(tiny: EmbeddedModel) -> None:
    tokenizer = load_tokenizer("tiny-gemma")

    ids = tokenizer("the heart" + " " * 5 + "he").input_ids

    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "the", "▁heart", "▁▁▁", "▁▁", "he"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 1, 0)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the heart     he"


def test_embedded_model_is_built_once_and_says_so(
    tiny: EmbeddedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = load_model("tiny-gemma")
    said = capsys.readouterr()
    (folder,) = cache_root().iterdir()
    built = {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    second, _ = load_model("tiny-gemma", dtype=torch.bfloat16)

    assert "preparing tiny-gemma" in said.err
    assert said.out == ""
    assert "preparing" not in capsys.readouterr().err
    assert built == {path: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    assert second.dtype == torch.bfloat16
    state = second.state_dict()
    assert all(torch.equal(w.bfloat16(), state[name]) for name, w in first.state_dict().items())


def test_cache_holds_nothing_but_the_finished_model(tiny: EmbeddedModel) -> None:
    load_tokenizer("tiny-gemma")

    (folder,) = cache_root().iterdir()

    assert tiny.sha256[:12] in folder.name
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_other_versions_build_anew(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tokenizer("tiny-gemma")
    monkeypatch.setattr(embedded_models.transformers, "__version__", "99.0.0")
    load_tokenizer("tiny-gemma")

    assert len(list(cache_root().iterdir())) == 2


def test_failed_build_leaves_nothing(tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        (folder,) = cache_root().iterdir()
        assert (folder / "tokenizer.json").exists()  # half of it is there
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load_tokenizer("tiny-gemma")

    assert list(cache_root().iterdir()) == []
    assert load_tokenizer("tiny-gemma")("he").input_ids[0] == 2


def test_builds_at_the_same_time_do_not_disturb_each_other(
    tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, builds = check_tokenizer, []

    def check_and_let_another_win(*arguments: Any) -> None:
        check(*arguments)
        builds.append(arguments)
        if len(builds) == 1:  # a second process starts and ends before the first one is done
            with ThreadPoolExecutor() as pool:
                pool.submit(load_tokenizer, "tiny-gemma").result()

    monkeypatch.setattr(embedded_models, "check_tokenizer", check_and_let_another_win)
    model, _ = load_model("tiny-gemma")

    assert len(builds) == 2
    assert len(list(cache_root().iterdir())) == 1
    assert model.num_parameters() > 0


@pytest.mark.parametrize("damage", ["flipped byte", "cut off"])
def test_damaged_part_is_refused(tiny: EmbeddedModel, tmp_path: Path, damage: str) -> None:
    part = tmp_path / "site" / "tiny_part2" / "data" / "tiny.gguf"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content if damage == "flipped byte" else content[:-100])

    with pytest.raises(InputError, match=r"damaged \(sha256 .*pip install --force-reinstall tiny"):
        load_model("tiny-gemma")
    assert list(cache_root().iterdir()) == []


@pytest.mark.parametrize("lost", ["package", "file"])
def test_missing_package_is_named(tiny: EmbeddedModel, tmp_path: Path, lost: str) -> None:
    part = tmp_path / "site" / "tiny_part2"
    part.rename(tmp_path / "gone") if lost == "package" else (part / "data/tiny.gguf").unlink()

    with pytest.raises(InputError, match="pip install tiny-gguf"):
        load_model("tiny-gemma")
    assert not cache_root().exists()


@pytest.mark.parametrize("library", ["gguf", "accelerate"])
def test_missing_library_is_named(
    tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(embedded_models, "find_spec", lambda name: name != library or None)

    with pytest.raises(InputError, match=f"pip install {library}"):
        load_model("tiny-gemma")


def test_wrong_tokenizer_is_not_loaded(
    tiny: EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers 5.17.0 lost merges like this one: " heart" became " he" and "art".
    build = AutoTokenizer.from_pretrained

    def build_without_a_merge(source: str, **options: Any) -> PreTrainedTokenizerBase:
        tokenizer = build(source, **options)
        if "gguf_file" not in options:
            return tokenizer
        whole = json.loads(tokenizer.backend_tokenizer.to_str())
        whole["model"]["merges"].remove(["hear", "t"])
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(whole))
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", build_without_a_merge)

    with pytest.raises(InputError, match=r"tokenizer .* is wrong for"):
        load_model("tiny-gemma")
    assert list(cache_root().iterdir()) == []


def test_check_wants_runs_of_spaces_as_tokens(tiny: EmbeddedModel, tiny_gguf: Path) -> None:
    # As transformers builds it: merges cut 5 spaces into 2 + 3, SentencePiece into 3 + 2.
    plain = AutoTokenizer.from_pretrained(str(tiny_gguf.parent), gguf_file=tiny_gguf.name)

    with pytest.raises(InputError, match="wrong for"):
        check_tokenizer(plain, GgufTokens.read(tiny_gguf))


def test_unwritable_cache_is_named(
    tiny: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMLAB_CACHE", str(tmp_path / "file"))

    with pytest.raises(InputError, match="set TRIMLAB_CACHE"):
        load_model("tiny-gemma")


def test_damaged_cache_says_what_to_delete(tiny: EmbeddedModel) -> None:
    load_tokenizer("tiny-gemma")
    (folder,) = cache_root().iterdir()
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)

    with pytest.raises(InputError, match=f"delete {folder}"):
        load_model("tiny-gemma")


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIMLAB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_root() == Path.home() / ".cache" / "trimlab"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/trimlab")
    monkeypatch.setenv("TRIMLAB_CACHE", "~/mine")
    assert cache_root() == Path.home() / "mine"


# --- the reference tokenizer ------------------------------------------------------------------


def reference(*pieces: str, user_defined: tuple[str, ...] = ()) -> GgufTokens:
    """A vocabulary: ids 0..255 bytes, then BOS, then user-defined, then pieces, best first."""
    first = 257 + len(user_defined)
    return GgufTokens(
        pieces={piece: first + i for i, piece in enumerate(pieces)},
        scores=[0.0] * first + [-float(i) for i in range(len(pieces))],
        user_defined={token: 257 + i for i, token in enumerate(user_defined)},
        byte_ids=list(range(256)),
        bos_id=256,
    )


def test_reference_merges_by_score_then_leftmost() -> None:
    tokens = reference("he", "ar", "hear", "heart", "h", "e", "a", "r", "t", "aa")
    pieces = tokens.pieces

    assert tokens.encode("heart") == [256, pieces["heart"]]
    assert tokens.encode("hart") == [256, pieces["h"], pieces["ar"], pieces["t"]]
    assert tokens.encode("aaa") == [256, pieces["aa"], pieces["a"]]


def test_reference_takes_user_defined_tokens_first_and_longest_first() -> None:
    tokens = reference("a", SPACE, SPACE + "a", user_defined=(SPACE * 2, SPACE * 3))
    two, three, a, space_a = 257, 258, tokens.pieces["a"], tokens.pieces[SPACE + "a"]

    assert tokens.encode(" a") == [256, space_a]
    assert tokens.encode("  a") == [256, two, a]
    assert tokens.encode("    a") == [256, three, space_a]
    assert tokens.encode(" " * 5) == [256, three, two]


def test_reference_falls_back_to_bytes() -> None:
    assert reference("a").encode("aé") == [256, 257, 0xC3, 0xA9]


def test_probes_straddle_the_longest_run() -> None:
    assert {f"a{c * n}heart{c * n}" for c in " \n\t" for n in (1, 2, 31, 32)} <= set(PROBES)


# --- local folders ----------------------------------------------------------------------------


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


def test_folder_with_damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
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
    with pytest.raises(InputError, match="cannot load") as error:
        load_model(str(folder))
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
    assert message.endswith("name a local folder or an embedded model (gemma-3-270m)")
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


# --- the real embedded model (slow: builds it in the user's cache if it is not there) ----------


@pytest.fixture(scope="session")
def gemma_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = embedded_model("gemma-3-270m")
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    join_parts([find_part(model, *part) for part in model.parts], path, model)
    return path


@pytest.fixture(scope="session")
def gemma_tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("gemma-3-270m")


@pytest.fixture(scope="session")
def gemma_tokens(gemma_gguf: Path) -> GgufTokens:
    return GgufTokens.read(gemma_gguf)


@pytest.mark.slow
def test_gemma_tokenizer_agrees_with_the_gguf_file(
    gemma_tokenizer: PreTrainedTokenizerBase, gemma_tokens: GgufTokens
) -> None:
    check_tokenizer(gemma_tokenizer, gemma_tokens)
    for text in SENTENCES:
        ids = gemma_tokenizer(text).input_ids
        assert ids == gemma_tokens.encode(text)
        assert gemma_tokenizer.decode(ids, skip_special_tokens=True) == text
    assert gemma_tokenizer.tokenize("a heart") == ["a", "▁heart"]
    assert len(gemma_tokenizer) == 262144


@pytest.mark.slow
@pytest.mark.skipif("TRIMLAB_DATA" not in os.environ, reason="TRIMLAB_DATA names no data root")
def test_gemma_tokenizer_agrees_with_the_gguf_file_on_sciq(
    gemma_tokenizer: PreTrainedTokenizerBase, gemma_tokens: GgufTokens
) -> None:
    lines = (Path(os.environ["TRIMLAB_DATA"]) / "sciq/test.jsonl").read_text().split("\n")[:300]
    for row in map(json.loads, lines):
        text = "{support}\nQuestion: {question}\nAnswer: {correct_answer}".format(**row)
        assert gemma_tokenizer(text).input_ids == gemma_tokens.encode(text)


@pytest.mark.slow
def test_gemma_model_is_the_gguf_file(gemma_gguf: Path) -> None:
    model, tokenizer = load_model("gemma-3-270m")

    config = model.config
    assert type(model).__name__ == "Gemma3ForCausalLM"
    assert config.model_type == "gemma3_text"
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (18, 640, 256)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 1)
    assert (config.intermediate_size, config.vocab_size) == (2048, 262144)
    assert (config.sliding_window, config.max_position_embeddings) == (512, 32768)
    assert config.layer_types == (["sliding_attention"] * 5 + ["full_attention"]) * 3
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert config.query_pre_attn_scalar == 256
    assert config.tie_word_embeddings
    assert config._attn_implementation == "sdpa"
    assert model.num_parameters() == 268_098_176
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not model.generation_config.do_sample

    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_output": "self_attn.o_proj",
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    state = model.state_dict()
    reader = GGUFReader(gemma_gguf)
    assert len(reader.tensors) == len(dict(model.named_parameters()))
    for tensor in reader.tensors:
        *block, name, _ = tensor.name.split(".")
        layer = f"model.layers.{block[1]}." if block else ""
        weight = state[f"{layer}{names[name]}.weight"].numpy()
        expected = dequantize(tensor.data, tensor.tensor_type).reshape(weight.shape)
        if weight.ndim == 1:
            weight = weight + 1  # GGUF holds Gemma's norms with the 1 that the model adds to them
        np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-7, err_msg=tensor.name)


@pytest.mark.slow
def test_gemma_speaks() -> None:
    loaded: Any = load_model("gemma-3-270m")
    model, tokenizer = loaded
    prompt = tokenizer("The capital of France is", return_tensors="pt")

    with torch.inference_mode():
        logits = model(**prompt).logits[0, -1]
        written = model.generate(**prompt, max_new_tokens=30)

    text = str(tokenizer.decode(written[0], skip_special_tokens=True))
    assert " Paris" in [tokenizer.decode([i]) for i in logits.topk(5).indices.tolist()]
    assert "France" in text.removeprefix("The capital of France is")


@pytest.mark.slow
def test_stock_transformers_loads_the_cache_folder() -> None:
    load_tokenizer("gemma-3-270m")
    folder = embedded_models.embedded_folder("gemma-3-270m")
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert model.dtype == torch.float32
