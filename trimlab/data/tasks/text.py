"""Your own plain text, scored by loss instead of accuracy.

Source: the folder or file `data.root`, or the data set `data.hub`, see `DataSource`; rows
`{"text": "..."}`. Calibration and dev are carved from the validation rows.

A text of more than `data.max_length` tokens is read in windows, which stay in the row set of their
text. Each begins with the special tokens of the text (BOS); every token is scored in one window,
with at least one token before it. Windows count as items, in n and in the standard error, which is
therefore a little too small where few long texts make many windows. A text of one token is skipped.
"""

from typing import ClassVar

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.task import Task


class Text(Task):
    """Every token of the text is scored; there is no prompt and a single choice."""

    example: ClassVar = {"text": "The pump must be primed before it is started."}
    licence = "that of your own rows"
    metric = "exp_neg_loss"
    own_rows = True

    def item(self, row: Row, prompt: str) -> Item:
        """The text is the only choice, without a context."""
        return Item("", (row.text("text"),), gold=0)
