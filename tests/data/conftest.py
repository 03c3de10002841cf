"""Fixtures of the data tests."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the hub by functions."""

    def replace_hub(dataset_info: Callable[..., Any], load_dataset: Callable[..., Any]) -> None:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
        monkeypatch.setattr("datasets.load_dataset", load_dataset)

    return replace_hub
