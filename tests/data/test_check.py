"""What `trimlab data check` finds, on rows whose values are known."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.data.examples import write_rows
from trimlab.data.check import DataCheck, check, lengths
from trimlab.data.domain import DomainData
from trimlab.data.duplicates import Duplicates, find_duplicates
from trimlab.data.heuristic_baselines import longest_choice_accuracy
from trimlab.data.items import Item
from trimlab.data.label_balance import right_labels, right_positions
from trimlab.errors import InputError

WORDS = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx"]


def question(number: int, **changes: Any) -> dict[str, Any]:
    """A row that differs from those of other numbers, with nothing wrong in it."""
    generator = random.Random(number)
    name = f"{number} {' '.join(generator.sample(WORDS, 3))}"
    choices = [f"{letter}{number}" for letter in "xyz"]
    return {"question": name, "choices": choices, "answer": number % 3} | changes


def rows(count: int, start: int = 0, **changes: Any) -> list[dict[str, Any]]:
    return [question(number, **changes) for number in range(start, start + count)]


@pytest.fixture
def checked(tmp_path: Path, tiny_tokenizer: Any) -> Any:
    """`checked(train=..., validation=..., test=..., task=..., **options)` checks a domain."""

    def run(task: str = "jsonl", max_length: int = 200, **files: list[Any]) -> DataCheck:
        sets = {"train": rows(30), "validation": rows(30, 100), "test": rows(120, 200)} | files
        for name, content in sets.items():
            write_rows(tmp_path / f"{name}.jsonl", content)
        tokenizer = tiny_tokenizer()
        held_out = {"calibration_rows": 10, "dev_rows": 10}
        return check(DomainData(tokenizer, task, tmp_path, max_length=max_length, **held_out))

    return run


def kinds(found: DataCheck) -> list[str]:
    return [problem.kind for problem in found.problems]


def text_of(found: DataCheck, kind: str) -> str:
    (text,) = [problem.text for problem in found.problems if problem.kind == kind]
    return text


def test_a_good_domain_has_no_problems(checked: Any) -> None:
    found = checked()
    assert found.problems == []
    assert found.duplicates == []
    assert found.read == {"train": 30, "validation": 30, "test": 120}
    assert {name: part.items for name, part in found.sets.items()} == {
        "train": 30,
        "calibration": 10,
        "dev": 10,
        "test": 120,
    }
    assert found.sets["test"].positions == {0: 40, 1: 40, 2: 40}
    assert found.sets["test"].labels == {}
    assert found.baselines["guessing"] == pytest.approx(100 / 3)


def test_lengths_are_those_of_the_texts(checked: Any, tiny_tokenizer: Any) -> None:
    found = checked()
    tokenizer = tiny_tokenizer()

    def n(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    wanted = []
    for row in rows(120, 200):
        prompt = f"Question: {row['question']}\nAnswer:"
        whole = [n(f"{prompt} {choice}") for choice in row["choices"]]
        wanted.append((n(prompt), whole[row["answer"]] - n(prompt), max(whole)))
    test = found.sets["test"]
    for measured, values in zip(
        (test.prompt, test.answer, test.length), zip(*wanted, strict=True), strict=True
    ):
        order = sorted(values)
        assert (measured.min, measured.max) == (order[0], order[-1])
        assert (measured.median, measured.p95) == (order[59], order[113])


def test_statistics_of_lengths() -> None:
    found = lengths([*range(1, 25)])
    assert (found.min, found.median, found.p95, found.max) == (1, 12, 23, 24)
    assert found.histogram == (2,) * 12
    assert lengths([7]).histogram == (1, *[0] * 11)


def test_plain_text(checked: Any) -> None:
    pages = [{"text": f"page {i}. {'the end. ' * (i % 5)}"} for i in range(160)]
    found = checked("text", train=pages[:20], validation=pages[20:40], test=pages[40:])
    assert found.metric == "exp_neg_loss"
    assert found.baselines == {}
    assert found.sets["test"].positions == {}
    assert found.sets["test"].prompt.max == 1  # <s>
    (one, *_) = [e for e in found.examples if e.set == "test"]
    assert [t.text for t in one.prompt] == ["<s>"]
    assert "".join(t.text for t in one.choices[0]).startswith("page ")
    assert kinds(found) == []


def test_labels_and_positions() -> None:
    items = [
        Item("a", (" yes", " no"), 0),
        Item("b", (" no", " yes"), 1),
        Item("c", (" yes", " no"), 1),
        Item("d", (" yes", " no", " maybe"), 2),
        Item("e", (" alone",), 0),
    ]
    assert right_labels(items) == {"yes": 2, "no": 1}
    assert right_positions(items) == {0: 1, 1: 2, 2: 1}
    assert right_labels([Item("a", (" x", " y"), 0), Item("b", (" z", " w"), 0)]) == {}


def test_longest_choice() -> None:
    items = [
        Item("", (" a", " bcd"), 1),
        Item("", (" abc", " d"), 1),
        Item("", (" ab", " cd", " e"), 0),  # one of two longest
        Item("", (" ab", " cd", " e"), 2),
    ]
    assert longest_choice_accuracy(items) == pytest.approx(100 * 1.5 / 4)


def test_duplicates() -> None:
    sets = {
        "train": [Item("One", (" a", " b"), 0, where="t:1"), Item("two", (" a", " b"), 0)],
        "dev": [],
        "test": [
            Item("One", (" b", " a"), 1, where="x:1"),
            Item("one ", (" A", " b"), 0, where="x:2"),
            Item("ONE", (" c", " d"), 0, where="x:3"),
            Item("three", (" a", " b"), 0),
            Item("three", (" a", " b"), 0),
        ],
    }
    assert [(d.kind, d.set, d.other, d.count) for d in find_duplicates(sets)] == [
        ("exact", "test", "train", 1),
        ("near", "test", "train", 1),
        ("prompt", "test", "train", 1),
        ("exact", "test", "test", 1),
    ]
    assert find_duplicates(sets)[1] == Duplicates("near", "test", "train", 1, "x:2", "t:1", "one")


def test_small_test_set(checked: Any) -> None:
    found = checked(test=rows(25, 200))
    assert "test has 25 items" in text_of(found, "small_test")
    assert "10 points" in text_of(found, "small_test")


def test_cut_items(checked: Any) -> None:
    # the report counts cuts; here the counts are given
    from trimlab.data.problems import Evidence, find_problems

    items = {"test": [Item("a", (" b", " c"), 0)] * 100}
    for count, wanted in ((5, []), (6, ["cut_items"])):
        evidence = Evidence({"train": [], **items}, {}, {"test": count}, {}, None)
        assert [f.kind for f in find_problems(evidence) if f.kind == "cut_items"] == wanted


def test_one_position(checked: Any) -> None:
    found = checked(train=rows(30, answer=2))
    text = text_of(found, "one_position")
    assert "answer 2 (counted from 0) is the right one in 30 of 30 items of train" in text


def test_one_label(checked: Any) -> None:
    train = [question(i, choices=["yes", "no"], answer=int(i < 2)) for i in range(30)]
    test = [question(i, choices=["yes", "no"], answer=i % 2) for i in range(200, 320)]
    found = checked(train=train, test=test)
    assert kinds(found) == ["one_label"]
    assert "'yes' is right in 28 of 30 items of train" in text_of(found, "one_label")
    assert found.sets["train"].labels == {"yes": 28, "no": 2}
    assert found.baselines["majority_label"] == 50


def test_a_label_that_is_never_learnt(checked: Any) -> None:
    train = [question(i, choices=["yes", "no", "may"], answer=i % 2) for i in range(30)]
    assert "'may'" in text_of(checked(train=train), "one_label")


def test_word_overlap_and_length(checked: Any) -> None:
    telling = [
        question(i, question=f"{i} what is the heart", choices=["lung", "the heart itself", "leg"])
        | {"answer": 1}
        for i in range(200, 320)
    ]
    found = checked(test=telling)
    assert found.baselines["word_overlap"] == 100
    assert "is right in 100 % of test: a model can answer" in text_of(found, "word_overlap")
    assert "guessing is right in 33 %" in text_of(found, "longest_choice")


def test_word_overlap_of_nothing_is_no_finding(checked: Any) -> None:
    """No choice shares a word with the prompt: the first one is taken, which is mostly right."""
    test = [question(i, choices=["yes", "no"], answer=int(i % 10 == 0)) for i in range(200, 320)]
    train = [question(i, choices=["yes", "no"], answer=i % 2) for i in range(30)]
    found = checked(test=test, train=train)
    assert found.baselines["word_overlap"] == 90
    assert kinds(found) == ["one_label"]


def test_choices_of_the_same_tokens(checked: Any) -> None:
    """The tokenizer lowers case: the model cannot tell `AX` and `ax` apart."""
    test = rows(120, 200)
    test[7]["choices"] = ["é1", "ü1", "x"]  # both unknown
    assert "1 items have choices" in (text := text_of(checked(test=test), "same_tokens"))
    assert "test.jsonl:8" in text


def test_one_prompt_and_prompts_in_train(checked: Any) -> None:
    same = checked(train=rows(30, question="which?"), test=rows(120, 200, question="which?"))
    assert kinds(same) == ["one_prompt", "one_prompt"]
    known = checked(test=[*rows(119, 200), question(500, question=question(3)["question"])])
    assert "1 of 120 test items" in text_of(known, "prompts_in_train")
    assert "test.jsonl:120" in text_of(known, "prompts_in_train")
    assert [(d.kind, d.set, d.other, d.count) for d in known.duplicates] == [
        ("prompt", "test", "train", 1)
    ]


def test_contradictions(checked: Any) -> None:
    other = question(3)
    train = [*rows(30), other | {"answer": (other["answer"] + 1) % 3}]
    assert "1 items" in text_of(checked(train=train), "contradictions")


def test_unknown_tokens(checked: Any, tiny_tokenizer: Any) -> None:
    found = checked(train=rows(30, question="日本語 日本語"))
    assert found.unknown is not None
    assert "unknown" in text_of(found, "unknown_tokens")
    good = checked()
    assert good.unknown == 0


def test_space_before_the_answer() -> None:
    from trimlab.data.problems import Evidence, find_problems

    items = {"train": [Item("Answer: ", ("b",), 0, where="f:3")], "test": []}
    found = find_problems(Evidence(items, {}, {}, {}, None))
    assert [f.kind for f in found] == ["space_before_answer"]
    assert "first f:3" in found[0].text


def test_rows_that_cannot_be_used_are_refused(checked: Any) -> None:
    with pytest.raises(InputError, match=r"test.jsonl:1: answer 5"):
        checked(test=rows(3, 200, answer=5))
