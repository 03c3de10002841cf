"""Hashes of items."""

from dataclasses import replace

from trimlab.data.items import Item
from trimlab.data.splits import SETS, RowSets


def test_hash_ignores_white_space_and_nothing_else():
    item = Item("Question: why?\nAnswer:", (" yes", " no"), 1)
    assert item.hash == Item("Question:  why? Answer:", (" yes ", "  no"), 1).hash
    for other in (
        replace(item, gold=0),
        replace(item, context="Question: Why?\nAnswer:"),
        replace(item, choices=(" no", " yes")),
        replace(item, choices=(" yes no",)),
    ):
        assert other.hash != item.hash


def test_fingerprints_do_not_depend_on_the_order():
    one, two = Item("a", (" b", " c"), 0), Item("d", (" e", " f"), 1)
    sets = RowSets([one, two], [one], [two], [], {}, {})
    assert sets.fingerprints() == RowSets([two, one], [one], [two], [], {}, {}).fingerprints()
    assert sets.fingerprints() != RowSets([two], [one], [two], [one], {}, {}).fingerprints()
    assert list(sets.fingerprints()) == list(SETS)
