"""Encoded items as people read them: every token with its text, special and scored ones marked."""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from trimlab.data.encoding import EncodedItem
from trimlab.records.rows import JsonObject


@dataclass(frozen=True, slots=True)
class Text:
    """`context + choice` of one choice, as the model reads it.

    Attributes:
        ids: Token ids.  # (T,)
        scored: Whether each token is scored, and trained on in a training item.  # (T,)
    """

    ids: tuple[int, ...]
    scored: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        text: What it adds to a text; its name in the vocabulary if it is special or part of a
            character.
        id: Its id.
        special: It stands for no text: `<bos>`.
        scored: It is scored, and trained on in a training item.
    """

    text: str
    id: int
    special: bool
    scored: bool


@dataclass(frozen=True)
class Example:
    """An item in tokens.

    Attributes:
        set: Name of its row set.
        where: File and line of its row, if known.
        prompt: The tokens before the first scored one, the same in front of every choice.
        choices: The other tokens, by choice; in a training item those of the right choice alone.
        gold: Index of the right one of `choices`.
    """

    set: str
    where: str | None
    prompt: tuple[Token, ...]
    choices: tuple[tuple[Token, ...], ...]
    gold: int

    def to_row(self) -> JsonObject:
        """The example as a JSON object."""

        def row(tokens: tuple[Token, ...]) -> list[JsonObject]:
            names = ("text", "id", "special", "scored")
            return [{name: getattr(token, name) for name in names} for token in tokens]

        return {
            "set": self.set,
            "where": self.where,
            "prompt": row(self.prompt),
            "choices": [row(choice) for choice in self.choices],
            "gold": self.gold,
        }


def texts(item: EncodedItem) -> list[Text]:
    """The texts that the tree of an item stands for, one for each choice."""
    prefix = [i for i, k in enumerate(item.continuations) if k == 0]
    found = []
    for choice in range(max(item.choice_index) + 1):
        own = [i for i, k in enumerate(item.continuations) if k == choice + 1]
        path = {index: place for place, index in enumerate([*prefix, *own])}
        places = [
            (path[source] + 1, target)
            for source, target, k in zip(
                item.logit_index, item.targets, item.choice_index, strict=True
            )
            if k == choice
        ]
        # the last token predicts nothing and is not in the tree: it is only a target
        ids = [*(item.tokens[i] for i in path), places[-1][1]]
        scored = {place for place, _ in places}
        found.append(Text(tuple(ids), tuple(i in scored for i in range(len(ids)))))
    return found


def example(
    tokenizer: PreTrainedTokenizerBase, item: EncodedItem, name: str, where: str | None
) -> Example:
    """An item in tokens.

    Args:
        tokenizer: The tokenizer that encoded it.
        item: The item.
        name: Name of its row set.
        where: File and line of its row, if known.
    """
    found = texts(item)
    shared = min(text.scored.index(True) for text in found)
    while any(text.ids[:shared] != found[0].ids[:shared] for text in found):
        shared -= 1
    tokens = [_tokens(tokenizer, text) for text in found]
    return Example(
        set=name,
        where=where,
        prompt=tokens[0][:shared],
        choices=tuple(choice[shared:] for choice in tokens),
        gold=item.gold,
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, text: Text) -> tuple[Token, ...]:
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(
        Token(piece(tokenizer, i, i in special), i, i in special, scored)
        for i, scored in zip(text.ids, text.scored, strict=True)
    )


def piece(tokenizer: PreTrainedTokenizerBase, token: int, special: bool = False) -> str:
    """The text that a token adds to a text, with the space that it may begin with.

    Args:
        tokenizer: The tokenizer.
        token: A token id.
        special: The token is special: its name is returned.
    """
    name = str(tokenizer.convert_ids_to_tokens(token))
    if special:
        return name
    # a tokenizer may drop the space at the start of a text: decode behind another token
    first = tokenizer("a", add_special_tokens=False)["input_ids"]
    before, both = (
        str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        for ids in (first, [*first, token])
    )
    added = both[len(before) :]
    return added if added and "\ufffd" not in added else name
