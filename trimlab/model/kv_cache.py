"""KV cache of a model with fewer attentions than blocks.

Transformers reads the length of a cache from slot 0. Left empty by a dropped attention, it would
place every generated token at position 0. So the remaining attentions use slots 0, 1, 2, ..., and
the cache has as many slots, each of its attention's own kind (sliding or full). The model's config
stays as it is: Transformers indexes `config.layer_types` by block.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from transformers import Cache, DynamicCache, PreTrainedConfig


def renumber(attentions: Iterable[nn.Module]) -> None:
    """Gives the remaining attentions, in the order of execution, the cache slots 0, 1, 2, ..."""
    for slot, attention in enumerate(attentions):
        attention.layer_idx = slot  # type: ignore[assignment]


def with_cache(
    kwargs: dict[str, Any], config: PreTrainedConfig, blocks: Sequence[int]
) -> dict[str, Any]:
    """Arguments of a forward call, with a cache of the remaining attentions where one is used.

    Args:
        kwargs: Keyword arguments of the call. A cache that has a slot for every block of the
            config, as `generate` makes it, is shortened in place: the caller goes on with it.
        config: The model's config.
        blocks: Blocks that still have their attention, in the order of execution.

    Returns:
        The keyword arguments to call the model with.
    """
    if not blocks:  # nothing would fill a cache
        return kwargs | {"past_key_values": None, "use_cache": False}
    cache, use_cache = kwargs.get("past_key_values"), kwargs.get("use_cache")
    if cache is None and (config.use_cache if use_cache is None else use_cache):
        cache = DynamicCache(config=config)
        kwargs = kwargs | {"past_key_values": cache}
    if isinstance(cache, Cache) and len(cache.layers) == config.num_hidden_layers:
        cache.layers = [cache.layers[block] for block in blocks]
    return kwargs
