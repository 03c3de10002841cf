"""How often each position and each label is right."""

from collections import Counter
from collections.abc import Sequence

from trimlab.data.items import Item

LABELS_SHARE = 0.5  # choices that so many of the items have are labels


def right_positions(items: Sequence[Item]) -> dict[int, int]:
    """How often each position holds the right choice; empty for items without other choices."""
    return dict(sorted(Counter(item.gold for item in items if len(item.choices) > 1).items()))


def right_labels(items: Sequence[Item]) -> dict[str, int]:
    """How often each label is right.

    Returns:
        Numbers by label, the most frequent first; empty if less than half of the items have the
        same choices.
    """
    with_choices = [item for item in items if len(item.choices) > 1]
    if not with_choices:
        return {}
    labels, count = Counter(frozenset(item.choices) for item in with_choices).most_common(1)[0]
    if count < max(2, LABELS_SHARE * len(with_choices)):
        return {}
    right = Counter(i.choices[i.gold] for i in with_choices if frozenset(i.choices) == labels)
    numbers = {label.strip(): right[label] for label in labels}
    return dict(sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0])))
