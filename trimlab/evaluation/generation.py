"""Exact match of generated answers.

Choosing among given options is easier than writing an answer: a trimmed model can keep the first
and lose the second.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torchmetrics.functional.text import squad
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.data.encoding import prompt_ids, token_ids
from trimlab.data.items import Item
from trimlab.evaluation.decoding import greedy_tokens, read_prompt
from trimlab.evaluation.metrics import Estimate, share
from trimlab.model.sublayers import SublayerStack, evaluating

EXTRA_TOKENS = 4  # beyond those of the longest choice, for another spelling and the end


@torch.inference_mode()
def greedy_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: list[int], most: int
) -> str:
    """Generates greedily until a newline or an end-of-text token.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        context: Tokens of the prompt.
        most: Largest number of generated tokens.

    Returns:
        The generated text before the newline.
    """
    if most <= 0:
        return ""
    ends = _ends(model, tokenizer)
    written: list[int] = []
    prompt = read_prompt(model, torch.tensor([context], device=model.device))
    for token in islice(greedy_tokens(model, prompt), most):
        if token.item() in ends:
            break
        written.append(int(token))
        if "\n" in tokenizer.decode(written):
            break
    return str(tokenizer.decode(written, skip_special_tokens=True)).partition("\n")[0]


def exact_match(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    max_length: int = 1024,
    progress: bool = False,
    name: str = "generate",
) -> Estimate | None:
    """Share of the items for which the model writes the right choice.

    Answers are compared as in SQuAD (arXiv 1606.05250): without case, punctuation, articles and
    extra space. An exact comparison would count `energy.` as wrong: fine-tuning on answers teaches
    their words, not where they end.

    Args:
        stack: The model, trimmed or not.
        tokenizer: Its tokenizer.
        items: Questions with a context.
        max_length: Longest text in tokens; a longer context loses its oldest tokens.
        progress: Show a bar with the time left.
        name: Label of the bar.

    Returns:
        Percent, with its standard error; None for plain text, which has no question.
    """
    if not all(item.context for item in items):
        return None
    right = []
    with evaluating(stack.model):
        for item in tqdm(items, desc=name, unit="item", disable=not progress, leave=False):
            texts = [token_ids(tokenizer, item.context + choice) for choice in item.choices]
            longest = max(map(len, texts)) - len(token_ids(tokenizer, item.context))
            most = longest + EXTRA_TOKENS
            context = prompt_ids(tokenizer, item.context, max_length - most)
            written = greedy_answer(stack.model, tokenizer, context, most)
            right.append(_matches(written, item.choices[item.gold]))
    return share(torch.tensor(right))


def _matches(written: str, answer: str) -> bool:
    target = {"answers": {"answer_start": [0], "text": [answer]}, "id": ""}
    return bool(squad([{"prediction_text": written, "id": ""}], [target])["exact_match"])


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[Any]:
    config = model.generation_config
    ends: Any = None if config is None else config.eos_token_id  # one, several or none
    everything: list[Any] = [tokenizer.eos_token_id]
    everything += ends if isinstance(ends, list) else [ends]
    return set(everything) - {None}
