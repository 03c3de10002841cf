"""FinanceQA as the paper reports it: trained on questions about finance, evaluated on economics.

Source: `TheFinAI/flare-fiqasa`, `takala/financial_phrasebank` (`sentences_50agree`) and
`tatsu-lab/alpaca` for training, `cais/mmlu` for the test, on the hub; locally `fiqa_sa/`,
`financial_phrasebank/`, `alpaca/` and `mmlu/<subject>/`. The paper trains on FiQA, Alpaca-style
question answering and dialogues with ChatGPT. The dialogues and FiQA's free-text answers are not
available; the sentiment of FiQA's posts and of Financial PhraseBank's sentences replaces them.

Splits: the train rows of the three sources are one pool. Calibration and dev are carved from its
multiple-choice rows (sentiment). Alpaca's free-form answers are only trained on; empty ones are
dropped. The reported set is the test rows of MMLU economics. Local Alpaca rows may be partial.
"""

from collections.abc import Sequence
from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.mixture import Mixture, Part
from trimlab.data.rows import Row
from trimlab.data.task import Task
from trimlab.data.tasks.mmlu_economics import MMLUEconomics

QUESTION = "Question: Is the sentiment negative, neutral or positive?\nAnswer:"


class _FiQA(Part):
    r"""`{post}\nQuestion: {about its sentiment}\nAnswer:` -> ` {sentiment}`."""

    hub = "TheFinAI/flare-fiqasa"
    example: ClassVar = {
        "text": "Their quarterly numbers look strong.",
        "choices": ["negative", "positive", "neutral"],
        "gold": 1,
    }
    licence = "MIT (FiQA)"

    def item(self, row: Row, prompt: str) -> Item:
        choices = tuple(f" {choice}" for choice in row.texts("choices"))
        return Item(f"{row.text('text').strip()}\n{QUESTION}", choices, row.index("gold"))


class _PhraseBank(Part):
    r"""`{sentence}\nQuestion: {about its sentiment}\nAnswer:` -> ` {sentiment}`."""

    hub = "takala/financial_phrasebank"
    config = "sentences_50agree"
    example: ClassVar = {"sentence": "Sales rose by 8 % in the third quarter .", "label": 2}
    licence = "CC BY-NC-SA 3.0 (Financial PhraseBank)"

    def item(self, row: Row, prompt: str) -> Item:
        choices = (" negative", " neutral", " positive")
        return Item(f"{row.text('sentence').strip()}\n{QUESTION}", choices, row.index("label"))


class _Alpaca(Part):
    r"""`{input}\nQuestion: {instruction}\nAnswer:` -> ` {output}`; the input may be empty."""

    hub = "tatsu-lab/alpaca"
    example: ClassVar = {
        "instruction": "Say what a bond is in one sentence.",
        "input": "The reader is a child.",
        "output": "A bond is a loan that many people give together.",
    }
    licence = "CC BY-NC 4.0 (Alpaca)"
    free_form = True

    def usable(self, row: Row) -> bool:
        return bool(row.text("output").strip())

    def item(self, row: Row, prompt: str) -> Item:
        question = f"Question: {row.text('instruction').strip()}\nAnswer:"
        context = f"{row.text('input').strip()}\n{question}".lstrip()
        return Item(context, (f" {row.text('output').strip()}",), gold=0)


class FinanceQA(Mixture):
    """The prompt `harness` applies to MMLU; the training rows have a single prompt."""

    licence = "; ".join(
        (_FiQA.licence, _PhraseBank.licence, _Alpaca.licence, f"{MMLUEconomics.licence} (MMLU)")
    )
    prompts = MMLUEconomics.prompts
    official: ClassVar = {"train": 750 + 4_846 + 52_002}  # FiQA, Financial PhraseBank, Alpaca
    splits = ("train", "train", "test")

    def parts(self, split: str) -> Sequence[Task]:
        """MMLU economics for the test split, the three sources for the others."""
        if split == "test":
            return MMLUEconomics().parts(split)
        return _FiQA("fiqa_sa"), _PhraseBank("financial_phrasebank"), _Alpaca("alpaca")
