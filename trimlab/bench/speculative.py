"""Speculative decoding: a trimmed model drafts for the whole one, against the whole one alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.bench._benchmark import Benchmark
from trimlab.bench._methods._method import load_method
from trimlab.bench._result import BenchmarkResult
from trimlab.data.encoding import prompt_ids
from trimlab.errors import InputError
from trimlab.evaluation.generation import answer_prompt
from trimlab.evaluation.speed import decode_seconds
from trimlab.model.loading import load_model
from trimlab.model.sublayers import SublayerStack
from trimlab.records.rows import JsonObject

FULL = "full"


@dataclass
class Generated:
    """Answers to some prompts.

    Attributes:
        answers: New tokens of each answer.
        passes: Forward passes of the whole model.
        drafted: Tokens that the draft model proposed.
        accepted: Those of them that are part of the answers.
    """

    answers: list[list[int]] = field(default_factory=list)
    passes: int = 0
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens(self) -> int:
        """Number of new tokens."""
        return sum(map(len, self.answers))


class SpeculativeBenchmark(Benchmark):
    """Answers questions greedily with a trimmed model that drafts, and without (the peer `full`).

    The draft model proposes a few tokens, and one forward pass of the whole model accepts those
    that it would have written itself: the answers are the same (assisted generation of
    transformers). With a draft model that takes the share c of the whole model's time per token
    and whose tokens are accepted with probability a, g drafted tokens per pass make generation

        (1 - a^(g + 1)) / ((1 - a) (g c + 1))

    times as fast at best (Leviathan et al. 2023, arXiv 2211.17192). Rates hold both: `draft_cost`
    is c, `acceptance_rate` the share of drafted tokens that were accepted, and `ratio_at_best` the
    speed-up if a pass over several tokens took as long as over one, and the rest no time.

    Args:
        draft: A trimmed model of the same tokenizer: its folder or name. By default, the model
            itself without every other block, not trained (like SWIFT, arXiv 2410.06916).
        rows: Number of test items whose prompts are answered.
        new_tokens: Longest answer in tokens; an end-of-text token ends it before.
        draft_tokens: Most tokens that are drafted at once.
        schedule: `constant`; or `heuristic`: two more tokens after a draft that was accepted
            whole, else one fewer.
        confidence: A draft ends before with a token whose probability is below this.
        **common: Options of every benchmark.

    Raises:
        InputError: The draft model has another tokenizer, or the task has no prompts.
    """

    peers = (FULL,)
    tiny: ClassVar[dict[str, Any]] = {"rows": 2, "new_tokens": 6, "draft_tokens": 3}

    def __init__(
        self,
        draft: str | None = None,
        rows: int = 20,
        new_tokens: int = 32,
        draft_tokens: int = 5,
        schedule: Literal["constant", "heuristic"] = "constant",
        confidence: float = 0.0,
        **common: Any,
    ):
        super().__init__(**common)
        self.draft, self.rows, self.new_tokens = draft, rows, new_tokens
        self.draft_options: JsonObject = {
            "num_assistant_tokens": draft_tokens,
            # the other kind of heuristic goes on with the length of the last prompt's drafts
            "num_assistant_tokens_schedule": schedule.replace("heuristic", "heuristic_transient"),
            "assistant_confidence_threshold": confidence,
        }
        self.workload: JsonObject = {
            "rows": rows,
            "new_tokens": new_tokens,
            "draft": draft,
            "draft_tokens": draft_tokens,
            "schedule": schedule,
            "confidence": confidence,
        }

    def measure(self) -> Iterator[BenchmarkResult]:
        """Times the answers, prompts included, without loading the models."""
        items = self.data.test_items(self.rows)
        if not all(item.context for item in items):
            raise InputError(f"the task {self.data.task.name} has no prompts to answer")
        costs: dict[str, float] = {}

        def candidate(drafting: bool) -> Callable[[], Callable[[], Generated]]:
            def prepared() -> Callable[[], Generated]:
                model, tokenizer = self.model.load()
                draft = self._draft_model(tokenizer) if drafting else None
                most = max(1, tokenizer.model_max_length - self.new_tokens)
                prompts = [prompt_ids(tokenizer, answer_prompt(item), most) for item in items]
                if draft is not None and not costs:
                    costs["draft"], costs["full"] = decode_seconds(draft), decode_seconds(model)
                generate(model, draft, prompts[:1], 4)  # the first passes are slower
                return lambda: generate(model, draft, prompts, self.new_tokens)

            return prepared

        ours, theirs = self.time(candidate(True), candidate(False) if self.against else None)
        yield BenchmarkResult(
            what=f"answering {self.rows} prompts, with drafts",
            ours=ours,
            theirs=theirs,
            peer=self.against,
            same=_same(ours.result, theirs.result) if theirs else {},
            workload=self.workload,
            rates=_rates(ours.result, costs["draft"] / costs["full"])
            | {
                f"{side}_tokens_per_second": turns.result.tokens / turns.median
                for side, turns in (("ours", ours), ("peer", theirs))
                if turns is not None
            },
        )

    def _draft_model(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        if self.draft is None:
            model = load_method("pairs").apply(SublayerStack(self.model.load()[0])).model
        else:
            model, other = load_model(self.draft, dtype=self.model.dtype)
            if other.get_vocab() != tokenizer.get_vocab():
                raise InputError(f"{self.draft} has another tokenizer than {self.model.name}")
            model.to(self.device)  # type: ignore[arg-type]
        model.generation_config.update(**self.draft_options)
        return model


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    draft: PreTrainedModel | None,
    prompts: Sequence[list[int]],
    new_tokens: int,
) -> Generated:
    """Answers prompts greedily, one after another.

    Args:
        model: The whole model, in evaluation mode.
        draft: The model that drafts, with its options in its generation config; None for none.
        prompts: Token ids of each prompt.
        new_tokens: Longest answer in tokens.
    """
    found, whole = Generated(), cast("Any", model)
    for prompt in prompts:
        ids = torch.tensor([prompt], device=model.device)
        with _passes(model) as read:
            text = whole.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=draft,
                do_sample=False,
                max_new_tokens=new_tokens,
            )
        answer = text[0, len(prompt) :].tolist()
        found.answers.append(answer)
        found.passes += len(read)
        if draft is not None:
            # a pass reads a token that is known, or the whole prompt, and what is drafted
            drafts = [read[0][len(prompt) :], *(tokens[1:] for tokens in read[1:])]
            found.drafted += sum(map(len, drafts))
            found.accepted += accepted(drafts, answer)
    return found


def accepted(drafts: Sequence[Sequence[int]], answer: Sequence[int]) -> int:
    """Drafted tokens that are part of an answer: those before the first difference in each draft.

    Args:
        drafts: The drafts; behind the accepted part of each, the answer has one token more.
        answer: The answer.
    """
    at = total = 0
    for draft in drafts:
        pairs = list(zip(draft, answer[at:], strict=False))
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        total, at = total + same, at + same + 1
    return total


@contextmanager
def _passes(model: PreTrainedModel) -> Iterator[list[list[int]]]:
    """The tokens that each forward pass of a model reads."""
    read: list[list[int]] = []

    def note(_model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        read.append(kwargs["input_ids"][0].tolist())

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield read
    finally:
        hook.remove()


def _same(ours: Generated, theirs: Generated) -> JsonObject:
    """Answers that are the same with drafts and without."""
    same = sum(a == b for a, b in zip(ours.answers, theirs.answers, strict=True))
    return {"items": len(theirs.answers), "same_answers": same}


def _rates(found: Generated, draft_cost: float) -> JsonObject:
    drafted_per_pass = found.drafted / found.passes
    tokens_per_pass = found.tokens / found.passes
    return {
        "acceptance_rate": found.accepted / max(found.drafted, 1),
        "drafted_per_pass": drafted_per_pass,
        "tokens_per_pass": tokens_per_pass,
        "draft_cost": draft_cost,
        "ratio_at_best": tokens_per_pass / (1 + drafted_per_pass * draft_cost),
    }
