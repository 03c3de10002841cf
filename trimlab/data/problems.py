"""What usually is wrong with the data of a domain, in plain words.

One function per kind: add a function to `KINDS` and it is part of `trimlab data check`.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trimlab.data.duplicates import exact_key, prompt_key
from trimlab.data.encoding import EncodedItem
from trimlab.data.items import Item
from trimlab.data.label_balance import right_labels, right_positions

FEW = 20  # below so many items, shares say nothing
SMALL_TEST = 100  # items; the standard error of an accuracy of 50 % is 5 points
CUT_SHARE = 0.05
UNKNOWN_SHARE = 0.01
ONE_ANSWER_SHARE = 0.9
OVERLAP = 60.0  # percent
ABOVE_GUESSING = 15.0  # points


@dataclass(frozen=True)
class Evidence:
    """What the problems are found in.

    Attributes:
        items: Items by row set.
        encoded: Encoded items by row set.
        cut: Number of items that were cut, by row set.
        baselines: Accuracies on test without a model, in percent; empty without choices.
        unknown: Share of unknown tokens, if the vocabulary has an unknown token.
    """

    items: Mapping[str, Sequence[Item]]
    encoded: Mapping[str, Sequence[EncodedItem]]
    cut: Mapping[str, int]
    baselines: Mapping[str, float]
    unknown: float | None


@dataclass(frozen=True)
class Problem:
    """Something that usually is wrong.

    Attributes:
        kind: Name for programs.
        text: One sentence for people: what is there, and why it matters or what to do.
    """

    kind: str
    text: str


def find_problems(evidence: Evidence) -> list[Problem]:
    """What usually is wrong with data, and is there."""
    return [
        Problem(function.__name__.lstrip("_"), text)
        for function in KINDS
        for text in function(evidence)
    ]


def _small_test(evidence: Evidence) -> Iterator[str]:
    n = len(evidence.items["test"])
    if 0 < n < SMALL_TEST and not evidence.baselines:
        yield f"test has {n} items: small differences between models mean nothing"
    elif 0 < n < SMALL_TEST:
        yield (
            f"test has {n} items: the standard error of an accuracy near 50 % is "
            f"{50 / n**0.5:.0f} points, and smaller differences between models mean nothing"
        )


def _cut_items(evidence: Evidence) -> Iterator[str]:
    for name, count in evidence.cut.items():
        n = len(evidence.items[name])
        if n and count > CUT_SHARE * n:
            yield (
                f"{count} of {n} items of {name} are longer than data.max_length and lose "
                "their beginning: raise it if the model reads more"
            )


def _one_position(evidence: Evidence) -> Iterator[str]:
    for name, items in evidence.items.items():
        if right_labels(items):
            continue  # reported as a label
        right = right_positions(items)
        n = sum(right.values())
        if n >= FEW and max(right.values()) >= ONE_ANSWER_SHARE * n:
            position = max(right, key=lambda p: right[p])
            yield (
                f"answer {position} (counted from 0) is the right one in {right[position]} of {n} "
                f"items of {name}: check the column; a model sees the position only where the "
                "prompt lists the choices, and then learns it instead of the domain"
            )


def _one_label(evidence: Evidence) -> Iterator[str]:
    for name, items in evidence.items.items():
        right = right_labels(items)
        n = sum(right.values())
        if n < FEW:
            continue
        label, count = next(iter(right.items()))
        if count >= ONE_ANSWER_SHARE * n:
            yield (
                f"{label!r} is right in {count} of {n} items of {name}: always saying it is "
                f"{100 * count / n:.0f} % accurate, so accuracy says little"
            )
        missing = [label for label, count in right.items() if not count]
        if missing and name == "train":
            yield f"never right in train, so never learnt: {', '.join(map(repr, missing[:5]))}"


def _word_overlap(evidence: Evidence) -> Iterator[str]:
    found = evidence.baselines
    if found and found["word_overlap"] > max(OVERLAP, _far_above_guessing(evidence)):
        yield (
            "the choice that shares most words with the prompt is right in "
            f"{found['word_overlap']:.0f} % of test: a model can answer without understanding"
        )


def _longest_choice(evidence: Evidence) -> Iterator[str]:
    found = evidence.baselines
    if found and found["longest_choice"] > _far_above_guessing(evidence):
        yield (
            f"the longest choice is right in {found['longest_choice']:.0f} % of test, where "
            f"guessing is right in {found['guessing']:.0f} %: length gives the answer away"
        )


def _far_above_guessing(evidence: Evidence) -> float:
    """An accuracy that guessing and constant answers do not reach: 15 points and two errors more.

    A constant answer is included, since a heuristic takes the first choice where all are equal.
    """
    found = evidence.baselines
    constant = max(found["guessing"], found["majority"], _first_choice_accuracy(evidence))
    two_errors = 100 / len(evidence.items["test"]) ** 0.5
    return constant + max(ABOVE_GUESSING, two_errors)


def _first_choice_accuracy(evidence: Evidence) -> float:
    test = evidence.items["test"]
    return 100 * sum(item.gold == 0 for item in test) / len(test)


def _space_before_answer(evidence: Evidence) -> Iterator[str]:
    every = [item for items in evidence.items.values() for item in items]
    ending = [item for item in every if item.context[-1:] in (" ", "\t")]
    if ending:
        yield (
            f"the prompts of {len(ending)} items end in a space, first {ending[0].where}: most "
            "tokenizers join a space to the word behind it, so put it at the beginning of the "
            "answer"
        )


def _same_tokens(evidence: Evidence) -> Iterator[str]:
    alike = [
        item
        for name, encoded in evidence.encoded.items()
        for item, tokens in zip(evidence.items[name], encoded, strict=False)
        if len(item.choices) > 1 and _has_same_choices(tokens)
    ]
    if alike:
        yield (
            f"{len(alike)} items have choices that become the same tokens, first "
            f"{alike[0].where}: the model cannot tell them apart; the tokenizer ignores case, "
            "white space or characters that it does not know"
        )


def _has_same_choices(item: EncodedItem) -> bool:
    choices: dict[int, list[int]] = {}
    for choice, target in zip(item.choice_index, item.targets, strict=True):
        choices.setdefault(choice, []).append(target)
    return len(set(map(tuple, choices.values()))) < len(choices)


def _one_prompt(evidence: Evidence) -> Iterator[str]:
    for name, items in evidence.items.items():
        if len(items) > 1 and items[0].context and len({item.context for item in items}) == 1:
            yield (
                f"all {len(items)} items of {name} have the same prompt: what differs between "
                "the rows is not in it"
            )


def _prompts_in_train(evidence: Evidence) -> Iterator[str]:
    train = {prompt_key(item) for item in evidence.items["train"]} - {None}
    if len(train) == 1 < len(evidence.items["train"]):
        return  # reported as one prompt
    test = evidence.items["test"]
    known = [item for item in test if prompt_key(item) in train]
    if known:
        yield (
            f"the prompts of {len(known)} of {len(test)} test items are also in train, first "
            f"{known[0].where}: the test may measure memory"
        )


def _contradictions(evidence: Evidence) -> Iterator[str]:
    answers: dict[Hashable, Item] = {}
    pairs = []
    for item in (item for items in evidence.items.values() for item in items):
        first = answers.setdefault(exact_key(item), item)
        if item.choices[item.gold] != first.choices[first.gold]:
            pairs.append((item, first))
    if pairs:
        here, there = pairs[0]
        yield (
            f"{len(pairs)} items have the prompt and the choices of another item and a different "
            f"answer, first {here.where} and {there.where}: one of the answers is wrong, or what "
            "decides between them is not in the prompt"
        )


def _unknown_tokens(evidence: Evidence) -> Iterator[str]:
    if evidence.unknown is not None and evidence.unknown > UNKNOWN_SHARE:
        yield (
            f"{100 * evidence.unknown:.1f} % of the tokens are unknown to the tokenizer: the model "
            "cannot read these characters or words"
        )


KINDS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _small_test,
    _cut_items,
    _one_position,
    _one_label,
    _word_overlap,
    _longest_choice,
    _space_before_answer,
    _same_tokens,
    _one_prompt,
    _prompts_in_train,
    _contradictions,
    _unknown_tokens,
)
