"""Items to token ids, as a tree: the prefix that all choices share, and one continuation each."""

from collections.abc import Sequence
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

    As in lm-evaluation-harness, the tokens of a choice are those of `context + choice` after the
    first n, where n is the number of tokens of the context alone. One difference: where a token
    spans the end of the context (a space in between prevents that), the harness feeds the tokens
    of the context alone to the model, and with them a text that differs from `context + choice`;
    here the model reads the tokens of `context + choice`.

    Args:
        tokenizer: The model's tokenizer.
        item: Context and choices. Without a context (plain text) every token is scored.
        max_length: Longest text in tokens. A longer context loses its first tokens.
        only_gold: Encode the right choice alone, for training.

    Raises:
        InputError: A choice has no tokens, or is longer than `max_length`.
    """
    choices = (item.choices[item.gold],) if only_gold else item.choices
    texts, start = _tokenise(tokenizer, item.context, choices, max_length)
    return _tree(texts, start, gold=0 if only_gold else item.gold)


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, context: str, choices: Sequence[str], max_length: int
) -> tuple[list[list[int]], int]:
    """Tokenises `context + choice` for every choice.

    Special tokens are added, and long texts cut, here and nowhere else.

    Returns:
        The token ids of every text, and the index of the first scored token (in all of them).
    """

    def ids(text: str) -> list[int]:
        # not verbose: no warning for texts longer than the model reads, they are cut below
        return tokenizer(text, verbose=False)["input_ids"]  # type: ignore[return-value]

    # without a context and a BOS nothing predicts the first token: it is not scored
    start = max(1, len(ids(context)))
    texts = [ids(context + choice) for choice in choices]
    for choice, text in zip(choices, texts, strict=True):
        _check_choice(context, choice, len(text) - start, max_length)
    excess = max(0, max(map(len, texts)) - max_length)
    return [text[excess:] for text in texts], start - excess


def _check_choice(context: str, choice: str, n_tokens: int, max_length: int) -> None:
    """Checks that a choice has tokens, and room for them and the token before the first."""
    end = f"...{context[-40:]!r}"  # names the item: it does not know its row
    if n_tokens < 1:
        raise InputError(f"choice {choice!r} adds no token to its context {end}; reword it")
    if n_tokens + 1 > max_length:
        raise InputError(
            f"choice {choice[:40]!r}... behind {end} has {n_tokens} tokens, and "
            f"max_length is {max_length}; shorten the choice or, if the model reads more, "
            "raise data.max_length"
        )


def _tree(texts: Sequence[list[int]], start: int, gold: int) -> EncodedItem:
    """Merges the texts of an item into a tree.

    Args:
        texts: Token ids of `context + choice` for every choice.
        start: Index of the first scored token of every text.
        gold: Index of the right choice.
    """
    # The prefix ends before the first token in which two texts differ. It never includes scored
    # tokens, although the texts may agree in some.
    prefix = start
    while any(text[:prefix] != texts[0][:prefix] for text in texts):
        prefix -= 1
    tokens, positions = texts[0][:prefix], list(range(prefix))
    continuations, logit_index, targets, choice_index = [0] * prefix, [], [], []
    for k, text in enumerate(texts):
        offset = len(tokens) - prefix  # from positions of this continuation to indices in `tokens`
        for position in range(start, len(text)):
            source = position - 1
            logit_index.append(source if source < prefix else source + offset)
            targets.append(text[position])
            choice_index.append(k)
        # without the last token, which predicts nothing
        tokens += text[prefix:-1]
        positions += range(prefix, len(text) - 1)
        continuations += [k + 1] * (len(text) - 1 - prefix)
    if len(texts) == 1:
        continuations = [0] * len(tokens)  # a single text is no tree: the causal mask suffices
    return EncodedItem(
        tokens=tuple(tokens),
        positions=tuple(positions),
        continuations=tuple(continuations),
        logit_index=tuple(logit_index),
        targets=tuple(targets),
        choice_index=tuple(choice_index),
        gold=gold,
    )
