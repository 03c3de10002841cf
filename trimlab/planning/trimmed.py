"""What a trimmed model weighs: its weights and its KV cache."""

from dataclasses import dataclass

from trimlab.planning.job import Job
from trimlab.planning.memory import target_layers

LENGTHS = (512, 4096)  # at which the KV cache is reported


@dataclass(frozen=True)
class TrimmedSize:
    """A model with a part of its layers.

    Attributes:
        name: What it is called.
        layer_memory_ratio: Bytes of the remaining sublayers over those of all.
        model_memory_ratio: The same of the whole model, embeddings included.
        parameters: Number of parameters.
        weights: Bytes of the weights, two for each.
        cache_per_token: Bytes of the KV cache for one token, two for each entry.
        cache: Bytes of the KV cache by length in tokens, batch size 1.
    """

    name: str
    layer_memory_ratio: float
    model_memory_ratio: float
    parameters: int
    weights: int
    cache_per_token: int
    cache: dict[int, int]


def trimmed_sizes(job: Job) -> list[TrimmedSize]:
    """The full model, and the trimmed ones at every saved ratio and at the target.

    Drops are taken to come in pairs of an attention and an MLP: the cache shrinks as the layers.
    """
    ratios = {round(ratio, 6) for ratio in (1.0, *job.settings.trim.save_at, target_layers(job))}
    return [_size(job, ratio) for ratio in sorted(ratios, reverse=True)]


def _size(job: Job, ratio: float) -> TrimmedSize:
    sizes = job.sizes
    blocks = max(1, int(ratio * sizes.blocks + 1e-9))  # of pairs; the last drop goes below
    left = blocks / sizes.blocks
    parameters = int(sizes.total - (1 - left) * sizes.layers)
    per_token = int(2 * left * sizes.cache_per_token)
    longest = min(max(LENGTHS), getattr(sizes.config, "max_position_embeddings", max(LENGTHS)))
    return TrimmedSize(
        name="full" if ratio == 1 else f"trimmed to {ratio:.3g}",
        layer_memory_ratio=left,
        model_memory_ratio=parameters / sizes.total,
        parameters=parameters,
        weights=2 * parameters,
        cache_per_token=per_token,
        cache={length: length * per_token for length in dict.fromkeys((LENGTHS[0], longest))},
    )
