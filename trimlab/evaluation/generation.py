"""Exact match and token F1 of generated answers.

Choosing among given options is easier than writing an answer: a trimmed model can keep the first
and lose the second.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.text import squad
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trimlab.data.batching import to_device
from trimlab.data.encoding import prompt_ids, token_ids
from trimlab.data.items import Item
from trimlab.evaluation.decoding import greedy_tokens, read_prompt
from trimlab.evaluation.metrics import Estimate, share
from trimlab.model.sublayers import SublayerStack, evaluating

PROMPT_SHARE = 0.25  # of the longest text, which is left to the prompt however long the answer is
READ_AT_ONCE = 8  # tokens that a GPU generates before they are read, some of them after the end
EXTRA_TOKENS = 4  # beyond those of the longest choice, for another spelling and the end


class WrittenAnswers(NamedTuple):
    """How near generated answers are to the right ones, in percent.

    Both compare as SQuAD does (arXiv 1606.05250): without case, punctuation, articles and extra
    space. An exact comparison would count `energy.` as wrong: fine-tuning on answers teaches their
    words, not where they end.

    Attributes:
        exact_match: Share of answers that are the right one.
        token_f1: Harmonic mean of the shares of words that the two have in common, a mean over
            the answers.
    """

    exact_match: Estimate
    token_f1: Estimate

    def to_fields(self) -> dict[str, Any]:
        """The fields of a test result."""
        fields: dict[str, Any] = {"exact_match_n": self.exact_match.n}
        for name, (value, stderr, _) in self._asdict().items():
            fields |= {name: value, f"{name}_stderr": stderr}
        return fields


@torch.inference_mode()
def greedy_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    context: list[int],
    most: int,
    one_line: bool = True,
    ends: frozenset[int] = frozenset(),
) -> str:
    """Generates greedily until an end-of-text token or, for an answer of one line, a newline.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        context: Tokens of the prompt.
        most: Largest number of generated tokens.
        one_line: The answer ends with the line.
        ends: Further tokens that end the answer.

    Returns:
        The generated text, before the newline.
    """
    if most <= 0:
        return ""
    all_ends = end_tokens(model.generation_config, tokenizer) | ends
    written: list[int] = []
    prompt = read_prompt(model, to_device(torch.tensor([context]), model.device))
    for token in _values(islice(greedy_tokens(model, prompt), most), model.device):
        if token in all_ends:
            break
        written.append(token)
        if one_line and "\n" in tokenizer.decode(written):
            break
    text = str(tokenizer.decode(written, skip_special_tokens=True))
    return text.partition("\n")[0] if one_line else text


def _values(tokens: Iterator[Tensor], device: torch.device) -> Iterator[int]:
    """The ids of tokens; from a GPU several at once, since reading waits for all of its work."""
    at_once = 1 if device.type == "cpu" else READ_AT_ONCE
    while some := list(islice(tokens, at_once)):  # (1, 1) each
        yield from torch.cat(some, dim=1)[0].tolist()


def written_answers(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    max_length: int = 1024,
    progress: bool = False,
    name: str = "generate",
) -> WrittenAnswers | None:
    """Compares what a model writes with the right choice.

    An answer that is one of several choices has one line, and may be as long as the longest of
    them. An answer without alternatives may be twice as long as the right one; it ends with the
    line if no right answer of these items goes on. Of a chat, the first turn of the assistant is
    the answer.

    Args:
        stack: The model, trimmed or not.
        tokenizer: Its tokenizer.
        items: Questions with a context.
        max_length: Longest text in tokens; a longer context loses its oldest tokens.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        The scores; None for plain text, which has no question.
    """
    if not all(item.context for item in items):
        return None
    one_line = not any("\n" in _answer(item).strip() for item in items if len(item.choices) == 1)
    scores: list[dict[str, Tensor]] = []
    with evaluating(stack.model):
        for item in tqdm(items, desc=name, unit="item", disable=not progress, leave=False):
            prompt, free = answer_prompt(item), len(item.choices) == 1
            choices = [_answer(item)] if free else item.choices
            n_prompt = len(token_ids(tokenizer, prompt))
            texts = [token_ids(tokenizer, prompt + choice) for choice in choices]
            longest = max(map(len, texts)) - n_prompt
            most = longest + EXTRA_TOKENS
            if free:  # twice as long, if that costs nothing of the prompt
                most = max(most, min(most + longest, max_length - n_prompt))
            least_prompt = max(1, int(PROMPT_SHARE * max_length))
            most = min(most, max_length - min(n_prompt, least_prompt))
            context = prompt_ids(tokenizer, prompt, max_length - most)
            written = greedy_answer(
                stack.model,
                tokenizer,
                context,
                most,
                one_line=one_line or not free,
                ends=_turn_end(tokenizer, item),
            )
            scores.append(_compared(written, _words(tokenizer, item)))
    found = (torch.stack([score[name] for score in scores]) for name in ("exact_match", "f1"))
    return WrittenAnswers(*(share(percent.double() / 100) for percent in found))


def answer_prompt(item: Item) -> str:
    """The text before the answer."""
    return item.context + (item.choices[0][: item.scored[0][0]] if item.scored else "")


def _answer(item: Item) -> str:
    """The right answer: of a chat, the first turn of the assistant."""
    choice = item.choices[item.gold]
    return choice[slice(*item.scored[0])] if item.scored else choice


def _words(tokenizer: PreTrainedTokenizerBase, item: Item) -> str:
    """The right answer without the token that ends a turn or a text."""
    answer = _answer(item).removesuffix(str(tokenizer.eos_token or ""))
    for token in _turn_end(tokenizer, item):
        answer = answer.removesuffix(str(tokenizer.convert_ids_to_tokens(token)))
    return answer


def _turn_end(tokenizer: PreTrainedTokenizerBase, item: Item) -> frozenset[int]:
    """The token that ends the right answer of a chat; empty where none does."""
    if not item.scored:
        return frozenset()
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(i for i, token in added if _answer(item).endswith(token.content))


def _compared(written: str, answer: str) -> dict[str, Tensor]:
    """Exact match and F1 of an answer, in percent."""
    target = {"answers": {"answer_start": [0], "text": [answer]}, "id": ""}

    def compared(text: str) -> dict[str, Tensor]:
        return squad([{"prediction_text": text, "id": ""}], [target])

    if compared("")["exact_match"]:
        # nothing but an article or signs (`A`, `+`), which SQuAD leaves out: to the letter
        same = torch.tensor(100.0 * (written.strip().casefold() == answer.strip().casefold()))
        return {"exact_match": same, "f1": same}
    return compared(written)


def end_tokens(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[Any]:
    """Tokens that end an answer: the tokenizer's EOS, and those of a generation config."""
    ends: Any = None if config is None else config.eos_token_id  # one, several or none
    everything: list[Any] = [tokenizer.eos_token_id]
    everything += ends if isinstance(ends, list) else [ends]
    return set(everything) - {None}
