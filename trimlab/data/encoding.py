"""Items to token ids, as a tree: the prefix that all choices share, a continuation for each."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trimlab.data.items import Item
from trimlab.errors import InputError


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """A tokenised item as a tree.

    Attributes:
        tokens: The prefix, then the continuations one after another.  # (T,)
        positions: Distance of each token from the start of its own text.  # (T,)
        continuations: 0 in the prefix, 1 + k in the continuation of choice k.  # (T,)
        logit_index: Index in `tokens` of the token that predicts a scored token.  # (P,)
        targets: Id of each scored token.  # (P,)
        choice_index: The choice that each scored token belongs to.  # (P,)
        gold: Index of the right choice.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    continuations: tuple[int, ...]
    logit_index: tuple[int, ...]
    targets: tuple[int, ...]
    choice_index: tuple[int, ...]
    gold: int


def encode(
    tokenizer: PreTrainedTokenizerBase, item: Item, max_length: int, only_gold: bool = False
) -> EncodedItem:
    """Tokenises an item.

    As in the harness, a choice's tokens are those of `context + choice` behind as many tokens
    as the context alone has. (Where a token spans the two, which a space between them prevents,
    the harness runs the tokens of the context alone, and with them a text that nobody wrote;
    here it is the text itself.) A context too long for the model loses its oldest tokens.

    Args:
        tokenizer: The model's tokenizer; its special tokens (BOS) are added.
        item: Context and choices. Without a context (plain text) every token is scored.
        max_length: Longest text, in tokens.
        only_gold: Encode the right choice alone, as training needs it.

    Raises:
        InputError: A choice has no tokens, or is longer than `max_length`.
    """
    choices = (item.choices[item.gold],) if only_gold else item.choices
    start = len(_ids(tokenizer, item.context))
    texts = [_ids(tokenizer, item.context + choice) for choice in choices]
    if start == 0:  # no context and no BOS: the first token has nothing to be predicted from
        start = 1
    context = f"...{item.context[-40:]!r}"  # an item does not know its line
    for choice, text in zip(choices, texts, strict=True):
        if len(text) <= start:
            raise InputError(f"choice {choice!r} adds no token to its context {context}; reword it")
        if len(text) - start + 1 > max_length:
            raise InputError(
                f"choice {choice[:40]!r}... behind {context} has {len(text) - start} tokens, and "
                f"max_length is {max_length}; shorten the choice or, if the model reads more, "
                "raise data.max_length"
            )
    excess = max(0, max(map(len, texts)) - max_length)
    texts, start = [text[excess:] for text in texts], start - excess

    # the prefix ends before the first token on which two choices differ, and before the last
    # token of the context, from which every choice's first token is predicted, at the latest
    prefix = start
    while any(text[:prefix] != texts[0][:prefix] for text in texts):
        prefix -= 1
    tokens, positions = list(texts[0][:prefix]), list(range(prefix))
    continuations, logit_index, targets, choice_index = [0] * prefix, [], [], []
    for k, text in enumerate(texts):
        offset = len(tokens) - prefix  # where this continuation's positions begin in `tokens`
        for position in range(start, len(text)):
            source = position - 1
            logit_index.append(source if source < prefix else source + offset)
            targets.append(text[position])
            choice_index.append(k)
        # the last token predicts nothing, so it is not computed
        tokens += text[prefix:-1]
        positions += range(prefix, len(text) - 1)
        continuations += [k + 1] * (len(text) - 1 - prefix)
    if len(texts) == 1:
        continuations = [0] * len(tokens)  # no tree: the causal mask serves
    return EncodedItem(
        *map(tuple, (tokens, positions, continuations, logit_index, targets, choice_index)),
        gold=0 if only_gold else item.gold,
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # quiet: a text longer than the model reads is cut afterwards
    return tokenizer(text, verbose=False)["input_ids"]  # type: ignore[return-value]
