"""LegalBench: 29 classification tasks of legal reasoning (arXiv 2308.11462).

Source: `nguha/legalbench` on the hub, one configuration per task; locally `legalbench/<task>/`.
These are the tasks, of its 162, whose rows are at hand and whose answer is one of a few labels.
Splits: the test rows are for the evaluation of models trained elsewhere, and all are reported.
Train, calibration and dev are carved from the 177 few-shot examples ("train").

The score is over all rows, most of which are from OPP-115; `legalbench/hearsay` and so on are
single tasks. The wording of the questions is this project's own (the harness has three of these
tasks, as generation with examples in the prompt). Where labels are letters (MAUD), the choices are
their meanings. MAUD and bills are long: a prompt over `data.max_length` loses its beginning. The
local MAUD and OPP-115 are the release corrected in 2026, not the one published with the paper.
"""

from collections.abc import Sequence
from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.mixture import Mixture, Part
from trimlab.data.rows import Row
from trimlab.data.task import Task

DIVERSITY = "Is there diversity jurisdiction?"
SUPERIOR = "How much must be bought by a superior offer that is a deal in"
SHARES = ("all or substantially all", "50%", "more than 50%, less than all", "less than 50%")
CLAUSE = "Is this clause of a privacy policy about"

YES_OR_NO = {
    "corporate_lobbying": "Is the bill relevant to the company?",
    **{f"diversity_{number}": DIVERSITY for number in range(1, 7)},
    "hearsay": "Is this evidence hearsay?",
    "learned_hands_courts": "Is this post about dealing with lawyers or courts?",
    "opp115_data_retention": f"{CLAUSE} how long data is kept?",
    "opp115_data_security": f"{CLAUSE} how data is protected?",
    "opp115_do_not_track": f"{CLAUSE} Do Not Track signals?",
    "opp115_first_party_collection_use": f"{CLAUSE} how and why the service itself collects data?",
    "opp115_international_and_specific_audiences": f"{CLAUSE} a specific group of users?",
    "opp115_policy_change": f"{CLAUSE} how users hear of changes to the policy?",
    "opp115_third_party_sharing_collection": f"{CLAUSE} sharing data with third parties?",
    "opp115_user_access,_edit_and_deletion": f"{CLAUSE} how users see, edit or delete their data?",
    "opp115_user_choice_control": f"{CLAUSE} the choices that users have?",
    "overruling": "Does this sentence overrule an earlier decision?",
    "personal_jurisdiction": "Is there personal jurisdiction?",
    "proa": "Does this clause give individuals a right to sue?",
}

# question, and meanings of the labels A, B, C, D
MAUD = {
    "accuracy_of_target_capitalization_rw_(outstanding_shares)_bringdown_standard_answer": (
        "How accurate must the capitalization representations be at closing?",
        (
            "accurate in all material respects",
            "accurate in all respects",
            "accurate in all respects, with a threshold",
            "accurate in all respects, with a de minimis exception",
        ),
    ),
    "definition_contains_knowledge_requirement_-_answer": (
        "What may have been known of an intervening event at signing?",
        (
            "the event, if its consequences were not known or foreseeable",
            "the event, if its consequences were not known",
            "nothing, and it was not foreseeable",
            "nothing",
        ),
    ),
    "definition_includes_asset_deals": (f"{SUPERIOR} assets?", SHARES),
    "definition_includes_stock_deals": (f"{SUPERIOR} stock?", SHARES),
    "intervening_event_-_required_to_occur_after_signing_-_answer": (
        "Must an intervening event occur after signing?",
        ("No", "Yes"),
    ),
    "knowledge_definition": (
        "Which knowledge counts?",
        ("actual knowledge", "constructive knowledge"),
    ),
    "liability_standard_for_no-shop_breach_by_target_non-do_representatives": (
        "How is the target liable when its representatives breach the no-shop clause?",
        ("by a reasonableness standard", "strictly"),
    ),
}


class _Classification(Part):
    r"""`{text}\nQuestion: {question}\nAnswer:` -> ` {meaning of a label}`.

    Args:
        name: Name of the LegalBench task.
        question: The question about its texts.
        labels: The values of the column `answer`.
        meanings: The choices, one per label.
    """

    hub = "nguha/legalbench"
    example: ClassVar = {"text": "The court decides a case.", "answer": "Yes"}
    licence = "CC BY 4.0; CC BY-NC-SA 4.0 (learned_hands); CC BY-NC (OPP-115)"
    splits = ("train", "train", "test")
    columns: ClassVar[tuple[str, ...]] = ("text",)

    def __init__(
        self,
        name: str,
        question: str,
        labels: Sequence[str] = ("Yes", "No"),
        meanings: Sequence[str] = ("Yes", "No"),
    ):
        super().__init__(f"legalbench/{name}")
        self.config = name
        self.question, self.labels, self.meanings = question, labels, meanings

    def item(self, row: Row, prompt: str) -> Item:
        text = "\n".join(row.text(column).strip() for column in self.columns)
        choices = tuple(f" {meaning}" for meaning in self.meanings)
        context = f"{text}\nQuestion: {self.question}\nAnswer:"
        return Item(context, choices, row.label("answer", self.labels))


class _Lobbying(_Classification):
    """A bill and a company in four columns."""

    columns = ("bill_title", "bill_summary", "company_name", "company_description")
    example: ClassVar = {
        "bill_title": "A bill on bread",
        "bill_summary": "Bread has to be baked.",
        "company_name": "The Bakers",
        "company_description": "We bake bread.",
        "answer": "Yes",
    }


class _Merger(_Classification):
    """A passage of a merger agreement; labels are letters."""

    example: ClassVar = {"text": "The parties agree to merge.", "answer": "A"}


class _Marks(_Classification):
    """A trade mark; labels are the kinds of distinctiveness."""

    example: ClassVar = {"text": 'The mark "Salt" for salt.', "answer": "generic"}


class LegalBench(Mixture):
    """One part per LegalBench task, their rows pooled."""

    hub = "nguha/legalbench"
    licence = _Classification.licence
    splits = _Classification.splits

    def parts(self, split: str) -> Sequence[Task]:
        """One part per LegalBench task, for every split."""
        kinds = ("generic", "descriptive", "suggestive", "arbitrary", "fanciful")
        return [
            _Marks("abercrombie", "How distinctive is this trade mark?", kinds, kinds),
            *(
                (_Lobbying if name == "corporate_lobbying" else _Classification)(name, question)
                for name, question in YES_OR_NO.items()
            ),
            *(
                _Merger(f"maud_{name}", question, "ABCD"[: len(meanings)], meanings)
                for name, (question, meanings) in MAUD.items()
            ),
        ]
