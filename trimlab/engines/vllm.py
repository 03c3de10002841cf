"""vLLM, for folders of a stock Hugging Face model and of nemotron-nas."""

import gc
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from trimlab.engines._decilm_config import DeciLMConfig
from trimlab.engines._engine import Engine, LoadedModel
from trimlab.errors import InputError, one_line

# none replaces what a user has set
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # computes in this process, and loads in a fifth of time
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# no code of a folder runs: its config's class is this one
AutoConfig.register(DeciLMConfig.model_type, DeciLMConfig, exist_ok=True)

LONGEST = 4096  # tokens of a text, where the model reads more: the cache holds one such text


class VllmModel(LoadedModel):
    """A model in vLLM's engine, which computes in this process.

    Args:
        llm: The loaded `vllm.LLM`.
    """

    engine = "vllm"

    def __init__(self, llm: Any):
        self.llm: Any = llm
        self.dtype = llm.llm_engine.model_config.dtype
        self._names = map(str, itertools.count())

    def logits(self, ids: Tensor, first: int = 0) -> Tensor:
        """See `LoadedModel.logits`; they are log-probabilities."""
        from vllm import SamplingParams  # type: ignore[import]

        every = SamplingParams(
            max_tokens=1, logprobs=-1, prompt_logprobs=-1, flat_logprobs=True, detokenize=False
        )
        (found,) = self._generate(ids, every)
        # of the first token nothing is predicted; behind the last one stands the generated token
        rows = [*found.prompt_logprobs[1 + first :], found.outputs[0].logprobs[0]]
        size = self.llm.llm_engine.model_config.get_vocab_size()
        logits = torch.full((1, len(rows), size), -torch.inf)
        for t, row in enumerate(rows):
            tokens = torch.tensor(list(row))
            logits[0, t, tokens] = torch.tensor([entry.logprob for entry in row.values()])
        return logits

    def log_probs(self, ids: Tensor, first: int = 1) -> Tensor:
        """See `LoadedModel.log_probs`; of other tokens than the text's, vLLM tells nothing."""
        from vllm import SamplingParams  # type: ignore[import]

        own = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False)
        (found,) = self._generate(ids, own)
        pairs = zip(ids[0, first:].tolist(), found.prompt_logprobs[first:], strict=True)
        return torch.tensor([row[token].logprob for token, row in pairs])

    def decode(self, prompt_ids: Sequence[int], new_tokens: int) -> Iterator[int]:
        """See `LoadedModel.decode`."""
        from vllm import SamplingParams  # type: ignore[import]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import]

        greedy = SamplingParams(
            temperature=0,
            max_tokens=new_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        engine, name = self.llm.llm_engine, next(self._names)
        name = engine.add_request(name, {"prompt_token_ids": list(prompt_ids)}, greedy)
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    yield from output.outputs[0].token_ids
        finally:
            engine.abort_request([name], internal=True)

    def close(self) -> None:
        """See `LoadedModel.close`."""
        from vllm.distributed import cleanup_dist_env_and_memory  # type: ignore[import]

        self.llm = None
        gc.collect()
        cleanup_dist_env_and_memory()

    def _generate(self, ids: Tensor, params: Any) -> Any:
        return self.llm.generate({"prompt_token_ids": ids[0].tolist()}, params, use_tqdm=False)


class Vllm(Engine):
    """vLLM, in the environment of trimlab."""

    package, extra, weights = "vllm", "vllm", "*.safetensors"

    def load(
        self, folder: Path, *, threads: int | None = None, dtype: torch.dtype | None = None
    ) -> VllmModel:
        """See `Engine.load`; what is asked for in float64 is computed in float32."""
        self.check()
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM  # type: ignore[import]
        from vllm.distributed import cleanup_dist_env_and_memory  # type: ignore[import]

        if threads is not None:
            torch.set_num_threads(threads)  # vLLM lets nobody change it later
        kept: Any = torch.float32 if dtype == torch.float64 else dtype
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            llm = LLM(
                model=str(folder),
                dtype=kept or "auto",
                enforce_eager=True,
                max_model_len=min(LONGEST, config.max_position_embeddings),
                max_logprobs=-1,
                enable_prefix_caching=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            cleanup_dist_env_and_memory()
            raise InputError(f"vLLM cannot load {folder}: {one_line(error)}") from error
        return VllmModel(llm)
