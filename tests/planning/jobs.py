"""A tiny run to plan."""

from typing import Any

from transformers import LlamaConfig

from trimlab.planning.job import Job
from trimlab.planning.machine import Machine
from trimlab.planning.settings import RunSettings
from trimlab.planning.sizes import ModelSizes
from trimlab.planning.workload import assumed

TINY = LlamaConfig(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)

ATTENTION, MLP = 32 * 32 * 2 + 2 * 32 * 16 + 32, 3 * 32 * 64 + 32  # parameters, norms included

COUNTS = {"train": 64, "calibration": 8, "dev": 8, "test": 8}

GPU = Machine("gpu", 2**30, matrix_rate=1e12, bandwidth=1e11, base=0)


def make_job(config: Any = TINY, machine: Machine = GPU, **options: Any) -> Job:
    row: dict[str, dict[str, Any]] = {"trim": {"target_layer_memory": 0.5, "r": 1.0}}
    for name, value in options.items():
        section, _, option = name.partition("__")
        row.setdefault(section, {})[option] = value
    settings = RunSettings.from_config(row)
    return Job(ModelSizes(config), settings, assumed(COUNTS, (16, 32)), machine)
