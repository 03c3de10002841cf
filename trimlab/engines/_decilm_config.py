"""The config of DeciLM: a LlamaConfig with one entry per block."""

from types import SimpleNamespace

from transformers import LlamaConfig


class _Block(SimpleNamespace):
    def to_dict(self):
        return {k: v.to_dict() if isinstance(v, _Block) else v for k, v in vars(self).items()}


def _block(entry):
    if isinstance(entry, _Block):
        return entry
    return _Block(**{k: _Block(**v) for k, v in entry.items()})


class DeciLMConfig(LlamaConfig):
    """See the source of DeciLM in vLLM: models/nemotron_nas.py."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        self.block_configs = [_block(entry) for entry in block_configs or []]
        super().__init__(**kwargs)

    def to_dict(self):
        """The config as JSON holds it."""
        blocks = [block.to_dict() for block in self.block_configs]
        return super().to_dict() | {"block_configs": blocks}
