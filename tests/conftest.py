"""Fixtures of all tests: tiny random models and rows, without network or files.

What takes seconds to import is imported by tests: with pytest-xdist, the process that hands them
out reads this file before it starts the others.
"""

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import setuptools  # noqa: F401  # before anything looks for pip, which switches its distutils off
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.tiny import PlainScores, TinyFolder, TinyModel, TinyTokenizer

REPOSITORY = Path(__file__).parents[1]
# the real rows of benchmarks: a folder with `sciq/train.jsonl` and so on; by default the one beside
# the checkout
DATA = Path(os.environ.get("TRIMLAB_DATA", REPOSITORY.parent / "shared" / "data"))

os.environ["WANDB_MODE"] = "disabled"  # tests of tracking say otherwise
# no test depends on the clock, and every run tries the same examples
settings.register_profile(
    "trimlab", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# `pytest --hypothesis-profile=many`: a hundred times as many, other ones every time
settings.register_profile(
    "many", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("trimlab")


def pytest_collection_finish() -> None:
    """Prepares a process for its tests, with all of their imports done.

    What was imported is left to no garbage collection any more: a run collects behind every phase,
    which takes half a second each with the modules of all libraries.
    """
    import torch

    torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model() -> "TinyModel":
    """`tiny_model(family, dtype=torch.float64, seed=0, **config)` makes a random model."""
    from tests.tiny import tiny_model

    return tiny_model


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "TinyTokenizer":
    """`tiny_tokenizer(bos=True)` makes a tokenizer that fits the tiny models."""
    from tests.tiny import tiny_tokenizer

    return tiny_tokenizer


@pytest.fixture(scope="session")
def tiny_folder() -> "TinyFolder":
    """`tiny_folder(path, family="llama")` saves a tiny model and its tokenizer."""
    from tests.tiny import tiny_folder

    return tiny_folder


@pytest.fixture(scope="session")
def plain_scores() -> "PlainScores":
    """`plain_scores(model, tokenizer, item, max_length=256)`: the reference for choices.py."""
    from tests.tiny import plain_scores

    return plain_scores


@pytest.fixture(scope="session")
def letters_domain() -> Callable[..., Path]:
    """`letters_domain(folder)` writes train, validation and test rows for the task `jsonl`."""
    from tests.tiny import letters_domain

    return letters_domain


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: "TinyFolder") -> Path:
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
