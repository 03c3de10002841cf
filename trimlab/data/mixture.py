"""Tasks made of other tasks, and tasks that exist only as part of one."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from trimlab.data.items import Item
from trimlab.data.rows import Row
from trimlab.data.source import DataSource
from trimlab.data.task import Task


class Mixture(Task):
    """A task made of other tasks, its parts. Each part reads its own rows and makes their items."""

    @abstractmethod
    def parts(self, split: str) -> Sequence[Task]:
        """The tasks whose rows make up a split."""

    def rows(self, split: str, source: DataSource) -> list[Row]:
        """Reads the rows of all parts."""
        return [row for part in self.parts(split) for row in part.rows(split, source)]

    def item(self, row: Row, prompt: str) -> Item:
        """Not available: only the part that a row comes from can make its item."""
        raise TypeError(f"task {self.name} is a mixture; its parts turn rows into items")


class Part(Task):
    """A task without a file of its own. Its rows are always in the folder of its name.

    Args:
        name: Name of the task, and of its folder in `data.root`.
    """

    def __init__(self, name: str):
        self._name = name

    @property
    def name(self) -> str:
        """The name of the part, and of its folder in `data.root`."""
        return self._name

    def folder(self, root: Path) -> Path:
        """The folder with the part's files: `<root>/<name>`."""
        return root / self.name
