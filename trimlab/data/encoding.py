"""Items to token ids, as a tree: the prefix that all choices share, and one continuation each.

Special tokens are added, and long texts cut, here and nowhere else.

- What the tokenizer puts in front of a text (BOS) stands there once, also where the text begins
  with it already, and stays there when a long text is cut.
- What the tokenizer appends to a text (EOS) is left out: it is no part of a prompt or a choice. The
  end of an answer is trained on where `end` says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
        length: Tokens of its longest text before that was cut.
        cut: How many of them were cut off.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    continuations: tuple[int, ...]
    logit_index: tuple[int, ...]
    targets: tuple[int, ...]
    choice_index: tuple[int, ...]
    gold: int
    length: int = field(default=0, compare=False)
    cut: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class _Text:
    """Token ids of a text.

    Attributes:
        ids: The ids, with the special tokens in front.  # (T,)
        head: Number of special tokens in front, which stay when the text is cut.
        scored: Indices of the scored tokens, ascending.  # (P,)
        offsets: First character of each token and the one behind its last; empty unless asked
            for.  # (T,)
    """

    ids: list[int]
    head: int
    scored: Sequence[int] = ()
    offsets: Sequence[tuple[int, int]] = ()

    def cut(self, excess: int) -> "_Text":
        """Without the first `excess` tokens behind the special tokens."""
        if not excess:
            return self
        first = max(1, self.head)  # nothing predicts a token without one before it
        scored = [i - excess for i in self.scored if i - excess >= first]
        return _Text([*self.ids[: self.head], *self.ids[self.head + excess :]], self.head, scored)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    item: Item,
    max_length: int,
    only_gold: bool = False,
    *,
    end: int | None = None,
) -> EncodedItem:
    """Tokenises an item.

    As in lm-evaluation-harness, the tokens of a choice are those of `context + choice` after the
    first n, where n is the number of tokens of the context alone. One difference: where a token
    spans the end of the context (a space in between prevents that), the harness feeds the tokens
    of the context alone to the model, and with them a text that differs from `context + choice`;
    here the model reads the tokens of `context + choice`.

    Where an item names the spans that are scored, a token is scored if it has a character in one of
    them, as in the masks of assistants' turns that Transformers makes.

    Args:
        tokenizer: The model's tokenizer.
        item: Context and choices. Without a context (plain text) every token is scored.
        max_length: Longest text in tokens. A longer context loses its first tokens, but for the
            special tokens in front of it.
        only_gold: Encode the right choice alone, for training.
        end: Id of a token to score behind every choice where there is room for it: the EOS, for
            training.

    Raises:
        InputError: A choice has no tokens, or is longer than `max_length`.
    """
    choices = (item.choices[item.gold],) if only_gold else item.choices
    texts = [_with_end(text, end, max_length) for text in _texts(tokenizer, item, choices)]
    for choice, text in zip(choices, texts, strict=True):
        _check_choice(item, choice, text, max_length)
    length = max(len(text.ids) for text in texts)
    excess = max(0, length - max_length)
    found = _tree([text.cut(excess) for text in texts], gold=0 if only_gold else item.gold)
    return replace(found, length=length, cut=excess)


def encode_all(
    tokenizer: PreTrainedTokenizerBase,
    item: Item,
    max_length: int,
    only_gold: bool = False,
    *,
    end: int | None = None,
) -> list[EncodedItem]:
    """Tokenises an item as `encode` does, and a plain text in windows.

    A text of more than `max_length` tokens becomes several windows. Each begins with the special
    tokens that the text begins with. Every token of the text is scored in one window, and at least
    one token before it is in the same window; the last window reaches back until it is full. A
    text of one token becomes none, since nothing predicts it.

    Raises:
        InputError: As for `encode`; or no window of `max_length` has room for a text.
    """
    if item.context or item.scored or len(item.choices) > 1:
        return [encode(tokenizer, item, max_length, only_gold, end=end)]
    (text,) = _texts(tokenizer, item, item.choices)
    if not text.scored:
        return []
    if end is not None and text.ids[-1] != end:
        text = replace(text, ids=[*text.ids, end])
    windows = _windows(text, max_length)
    return [replace(_tree([window], gold=0), length=len(text.ids)) for window in windows]


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenises a text as models read it: special tokens once in front of it, none behind it."""
    return _tokenise(tokenizer, text).ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, context: str, max_length: int) -> list[int]:
    """Tokenises a prompt to be continued; a long one is cut as in `encode`."""
    text = _tokenise(tokenizer, context)
    most = len(text.ids) - max(1, text.head)  # something is left to go on from
    return text.cut(min(max(0, len(text.ids) - max_length), most)).ids


def _tokenise(tokenizer: PreTrainedTokenizerBase, text: str, offsets: bool = False) -> _Text:
    """Tokenises a text; `offsets` asks for the characters of each token."""
    # not verbose: no warning for texts longer than the model reads, they are cut later
    found: Any = tokenizer(
        text, verbose=False, return_special_tokens_mask=True, return_offsets_mapping=offsets
    )
    ids, added = list(found["input_ids"]), list(found["special_tokens_mask"])
    places = list(found["offset_mapping"]) if offsets else []
    front = added.index(0) if 0 in added else len(added)  # tokens that the tokenizer has added
    behind = added[::-1].index(0) if 0 in added else 0
    ids, places = ids[: len(ids) - behind], places[: len(places) - behind]
    head = front
    if front and ids[front : front + 1] == ids[:1]:  # the text itself begins with the BOS
        own = ids[front:]
        same = [a == b for a, b in zip(ids[:front], own, strict=False)]
        ids, places, head = own, places[front:], (same + [False]).index(False)
    elif not front and ids and ids[0] == tokenizer.bos_token_id:
        head = 1
    return _Text(ids, head, offsets=places)


def _check_embedded(tokenizer: PreTrainedTokenizerBase, item: Item, text: _Text) -> None:
    """Refuses special tokens that the model has no embedding for, such as images of Gemma 3."""
    limit = getattr(tokenizer, "n_embeddings", None)  # known of the tokenizer of a loaded model
    if limit is not None and max(text.ids, default=0) >= limit:
        token = tokenizer.convert_ids_to_tokens(max(text.ids))
        raise InputError(f"{_name(item)}: {token} is a token that the model does not know")


def _without_eos(text: _Text, eos: Any) -> _Text:
    """A text without an EOS that is written at its end; `end` trains one."""
    ids = list(text.ids)
    while len(ids) > 1 and ids[-1] == eos:
        ids.pop()
    return replace(text, ids=ids, offsets=text.offsets[: len(ids)])


def _texts(
    tokenizer: PreTrainedTokenizerBase, item: Item, choices: Sequence[str]
) -> Iterator[_Text]:
    """Tokenises `context + choice` for every choice, and finds what is scored of it."""
    if item.scored:
        spans = _spans(tokenizer, item)
        _check_embedded(tokenizer, item, spans)
        yield spans
        return
    context = _tokenise(tokenizer, item.context) if item.context else _Text([], 0)
    for choice in choices:
        text = _without_eos(_tokenise(tokenizer, item.context + choice), tokenizer.eos_token_id)
        _check_embedded(tokenizer, item, text)
        # without a context and a BOS nothing predicts the first token: it is not scored
        start = max(1, text.head + len(context.ids) - context.head)
        yield replace(text, scored=range(start, len(text.ids)))


def _spans(tokenizer: PreTrainedTokenizerBase, item: Item) -> _Text:
    """An item with spans: what is scored of it, up to the last scored token."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{_name(item)}: to train on parts of a text, the tokenizer must be a fast one "
            "(tokenizer.json)"
        )
    text = _tokenise(tokenizer, item.context + item.choices[0], offsets=True)
    if not item.ends_with_turn:
        text = _without_eos(text, tokenizer.eos_token_id)
    at, first = len(item.context), max(1, text.head)
    scored = [
        i
        for i, (start, stop) in enumerate(text.offsets)
        if i >= first and any(start - at < b and a < stop - at for a, b in item.scored)
    ]
    stop = scored[-1] + 1 if scored else len(text.ids)
    return _Text(text.ids[:stop], text.head, scored)


def _with_end(text: _Text, end: int | None, max_length: int) -> _Text:
    """A text with one more scored token, if it has none like it and has room for it."""
    n = len(text.ids)
    room = max(1, text.head) + len(text.scored) < max_length
    if end is None or not text.scored or not room or text.ids[-1] == end:
        return text
    return replace(text, ids=[*text.ids, end], scored=[*text.scored, n])


def _check_choice(item: Item, choice: str, text: _Text, max_length: int) -> None:
    """Checks that a choice has tokens, and room for them and the tokens before the first."""
    name, n_tokens = _name(item), len(text.scored)
    if item.scored:
        # the span that is scored may be anywhere in the text: some of it must survive a cut
        if not text.cut(max(0, len(text.ids) - max_length)).scored:
            raise InputError(f"{name}: nothing of the text that is scored makes a token; reword it")
        return
    if n_tokens < 1 and not item.context and len(item.choices) == 1:
        raise InputError(f"{name}: a text of one token has nothing to predict; leave it out")
    if n_tokens < 1:
        raise InputError(
            f"{name}: choice {choice!r} adds no token to its context ...{item.context[-40:]!r}; "
            "reword it"
        )
    if n_tokens + max(1, text.head) > max_length:
        raise InputError(
            f"{name}: choice {choice[:40]!r}... has {n_tokens} tokens, and max_length is "
            f"{max_length}; shorten the choice or, if the model reads more, raise data.max_length"
        )


def _name(item: Item) -> str:
    """The place of an item or, if it is not known, what can be seen of it."""
    return item.where or f"the item ...{(item.context or item.choices[0])[-40:]!r}"


def _windows(text: _Text, max_length: int) -> Iterator[_Text]:
    """Cuts a text into windows, see `encode_all`."""
    ids, head = text.ids, text.head
    done, room = max(1, head), max_length - head
    if len(ids) > max_length and room < 2:
        raise InputError(f"data.max_length must be at least {head + 2}, not {max_length}")
    while done < len(ids):
        stop = min(len(ids), max(max_length, done + room - 1))
        start = max(head, stop - room)
        scored = range(head + done - start, head + stop - start)
        yield _Text([*ids[:head], *ids[start:stop]], head, scored)
        done = stop


def _tree(texts: Sequence[_Text], gold: int) -> EncodedItem:
    """Merges the texts of an item into a tree.

    Args:
        texts: Token ids of `context + choice` for every choice, with what is scored of them.
        gold: Index of the right choice.
    """
    # The prefix ends before the first token in which two texts differ. It never includes scored
    # tokens, although the texts may agree in some.
    prefix = min(text.scored[0] for text in texts)
    while any(text.ids[:prefix] != texts[0].ids[:prefix] for text in texts):
        prefix -= 1
    tokens, positions = texts[0].ids[:prefix], list(range(prefix))
    continuations, logit_index, targets, choice_index = [0] * prefix, [], [], []
    for k, text in enumerate(texts):
        offset = len(tokens) - prefix  # from positions of this continuation to indices in `tokens`
        for position in text.scored:
            source = position - 1
            logit_index.append(source if source < prefix else source + offset)
            targets.append(text.ids[position])
            choice_index.append(k)
        # without the last token, which predicts nothing
        tokens += text.ids[prefix:-1]
        positions += range(prefix, len(text.ids) - 1)
        continuations += [k + 1] * (len(text.ids) - 1 - prefix)
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
