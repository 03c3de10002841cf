"""A generative measure: does the model write the right answer by itself?

Choosing among given options needs less than writing one: a trimmed model can keep the first and
lose the second.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics.functional.text import squad
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimlab.data.items import Item
from trimlab.evaluation.metrics import Estimate, share
from trimlab.model.sublayers import SublayerStack, evaluating

ROOM = 4  # tokens beyond those of the longest choice, for another spelling and the end


@torch.inference_mode()
def greedy_answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: list[int], most: int
) -> str:
    """Writes the likeliest token again and again, until a newline or an end-of-text token.

    Args:
        model: The model, in evaluation mode; its KV cache is used.
        tokenizer: Its tokenizer.
        context: Tokens of the prompt.
        most: Most tokens that are written.

    Returns:
        What was written before the newline.
    """
    ends = _ends(model, tokenizer)
    written: list[int] = []
    ids, cache = torch.tensor([context], device=model.device), None
    while len(written) < most:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1].argmax(-1, keepdim=True)  # (1, 1)
        if token.item() in ends:
            break
        written.append(int(token))
        if "\n" in tokenizer.decode(written):
            break
        cache = output.past_key_values
        # a model without any attention has no cache: it reads the text from its start
        ids = torch.cat([ids, token], dim=1) if cache is None else token
    return str(tokenizer.decode(written, skip_special_tokens=True)).partition("\n")[0]


def exact_match(
    stack: SublayerStack,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    max_length: int = 1024,
    progress: bool = False,
    name: str = "generate",
) -> Estimate | None:
    """Share of the items whose right choice is what the model writes.

    As SQuAD compares answers (arXiv 1606.05250): without case, punctuation, articles and extra
    space. To the letter, a fine-tuned model would be wrong with `energy.`: it learns an answer's
    words, and not where an answer ends.

    Args:
        stack: The model, trimmed or not.
        tokenizer: Its tokenizer.
        items: Questions with a context.
        max_length: Longest text in tokens; a longer context loses its oldest tokens.
        progress: Show a bar with the time left.
        name: What the bar is called.

    Returns:
        Percent, with its standard error; None for plain text, which has no question.
    """
    if not all(item.context for item in items):
        return None
    right = []
    with evaluating(stack.model):
        for item in tqdm(items, desc=name, unit="item", disable=not progress, leave=False):
            context: list[int] = tokenizer(item.context)["input_ids"]  # type: ignore[assignment]
            texts = [tokenizer(item.context + choice)["input_ids"] for choice in item.choices]
            most = max(len(text) for text in texts) - len(context) + ROOM  # type: ignore[arg-type]
            context = context[max(0, len(context) + most - max_length) :]
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
