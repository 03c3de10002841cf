"""Tiny random models and a tiny tokenizer: everything a test needs, without network or files."""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from experiments.checking.tiny import letter_rows
from trimlab.model.family import family_of

os.environ["WANDB_MODE"] = "disabled"  # tests of tracking say otherwise
torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
# no test depends on the clock, and every run tries the same examples
settings.register_profile(
    "trimlab", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("trimlab")


def pytest_collection_finish() -> None:
    """Leaves what was imported to no garbage collection any more.

    A run collects behind every phase: half a second each with the modules of all libraries.
    """
    gc.collect()
    gc.freeze()


REPOSITORY = Path(__file__).parents[1]
# the real rows of benchmarks: a folder with `sciq/train.jsonl` and so on; by default the one beside
# the checkout
DATA = Path(os.environ.get("TRIMLAB_DATA", REPOSITORY.parent / "shared" / "data"))

TinyModel = Callable[..., PreTrainedModel]
TinyTokenizer = Callable[..., PreTrainedTokenizerFast]
TinyFolder = Callable[..., Path]
PlainScores = Callable[..., list[float]]

VOCABULARY = 64
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:?-"
MERGES = [("t", "h"), ("th", "e"), ("i", "n"), ("e", "r"), (" ", "a"), ("o", "n"), ("b", "c")]


def _tiny_model(
    family: str, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A random model of a family, in evaluation mode; `overrides` go into its config."""
    bare = AutoConfig.for_model(family)
    config = AutoConfig.for_model(family, **(COMMON | family_of(bare).tiny | overrides))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # biases and norms are initialised to 0 and 1: a test would not see them
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _tiny_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """Lower-case letters with a few merges, some of them across a space; fits `VOCABULARY`."""
    tokens = [*SPECIAL, *LETTERS, *(a + b for a, b in MERGES)]
    assert len(tokens) <= VOCABULARY
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.Fuse()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _tiny_folder(
    path: Path, family: str = "llama", dtype: torch.dtype = torch.float32, **overrides: Any
) -> Path:
    """A local Hugging Face folder with a tiny model and its tokenizer."""
    folder = path / f"tiny-{family}"
    _tiny_model(family, dtype, **overrides).save_pretrained(folder)
    _tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """`tiny_model(family, dtype=torch.float64, seed=0, **config)` makes a random model."""
    return _tiny_model


@pytest.fixture(scope="session")
def tiny_tokenizer() -> TinyTokenizer:
    """`tiny_tokenizer(bos=True)` makes a tokenizer that fits the tiny models."""
    return _tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_folder() -> TinyFolder:
    """`tiny_folder(path, family="llama")` saves a tiny model and its tokenizer."""
    return _tiny_folder


@torch.no_grad()
def _plain_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, item: Any, max_length: int = 256
) -> list[float]:
    """Log-likelihood of every choice of an item, the plain way: one whole pass per choice.

    A long text loses its first tokens behind the BOS, which the tokenizer adds.
    """
    start = max(1, len(tokenizer(item.context)["input_ids"]))
    texts = [tokenizer(item.context + choice)["input_ids"] for choice in item.choices]
    cut = max(0, max(map(len, texts)) - max_length)
    bos = int(texts[0][0] == tokenizer.bos_token_id)
    scores = []
    for text in texts:
        ids = torch.tensor([[*text[:bos], *text[bos + cut :]]])
        log_probs = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        scored = range(start - cut, len(text) - cut)
        scores.append(sum(float(log_probs[p - 1, ids[0, p]]) for p in scored))
    return scores


@pytest.fixture(scope="session")
def plain_scores() -> PlainScores:
    """`plain_scores(model, tokenizer, item, max_length=256)`: the reference for choices.py."""
    return _plain_scores


def _letters_domain(folder: Path, sizes: tuple[int, int, int] = (24, 40, 24)) -> Path:
    """A domain that a tiny model can learn a little of: which letter the word begins with."""
    return letter_rows(folder, sizes, shortest=3)


@pytest.fixture(scope="session")
def letters_domain() -> Callable[..., Path]:
    """`letters_domain(folder)` writes train, validation and test rows for the task `jsonl`."""
    return _letters_domain


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: TinyFolder) -> Path:
    """A tiny LLaMA on disk."""
    return tiny_folder(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory, letters_domain: Callable[..., Path]) -> Path:
    """Rows for the task `jsonl`."""
    return letters_domain(tmp_path_factory.mktemp("domain"))


@pytest.fixture
def no_environment_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps lm-evaluation-harness from listing the machine's packages: 20 s, and not compared."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _results: None)
