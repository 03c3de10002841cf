"""Agreement of a model with the untrimmed one, from the answers in their records."""

import math
from collections.abc import Sequence

from trimlab.records.results import Record, Records


def flat_stability(records: Sequence[Record], references: Records) -> float | None:
    """Agreement with the untrimmed model, with the same weight for every item (ours).

    The share of test items that the model and the untrimmed one both answer right or both wrong:
    (1/n) sum_i [right_i = right'_i], a mean over the seeds. LLM-Streamline's stability weighs the
    items by a softmax of the spread of their perplexities instead, and answers by perplexity.

    Args:
        records: Records of one model, one per seed.
        references: Records to take the untrimmed model from.

    Returns:
        A number in [0, 1]. None without the answers of both models.
    """
    shares = []
    for record in records:
        same = {name: record[name] for name in ("base", "task", "evaluated_on", "n")}
        untrimmed = next(
            (
                other["correct"]
                for other in references.where(kind="test", model="untrimmed", **same)
                if item_fingerprint(other) == item_fingerprint(record)
            ),
            None,
        )
        if untrimmed is None or record["correct"] is None or record.get("model") == "untrimmed":
            return None
        agree = sum(a == b for a, b in zip(untrimmed, record["correct"], strict=True))
        shares.append(agree / len(untrimmed))
    return math.fsum(shares) / len(shares)


def item_fingerprint(record: Record) -> str:
    """The fingerprint of the test items of a record."""
    return record.entry("row_sets", "test", str)
