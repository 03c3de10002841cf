"""The log of losses and scores of a fit, whole at any moment."""

import shutil
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from trimlab.files import atomic_file


class AtomicCSVLogger(CSVLogger):
    """Writes the file of a log atomically where a new column changes its rows.

    Lightning empties the file there before it writes the rows again, so that a killed process
    would lose the curve.
    """

    @rank_zero_only
    def save(self) -> None:
        """Adds the new rows to the file."""
        writer = self.experiment
        path, columns = Path(writer.metrics_file_path), {*writer.metrics_keys}
        if not path.exists() or all(columns >= row.keys() for row in writer.metrics):
            super().save()
            return
        with atomic_file(path) as part:
            shutil.copyfile(path, part)
            writer.metrics_file_path = str(part)
            try:
                super().save()
            finally:
                writer.metrics_file_path = str(path)
