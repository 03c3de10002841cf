"""The log of a fit."""

import csv
from pathlib import Path

from trimlab.training.csv_logger import AtomicCSVLogger


def test_new_column_replaces_the_file_and_never_empties_it(tmp_path: Path):
    logger = AtomicCSVLogger(tmp_path, name="logs")
    logger.log_metrics({"train_loss": 2.0}, step=0)
    logger.save()
    path = Path(logger.log_dir, "metrics.csv")
    with path.open() as before:
        logger.log_metrics({"train_loss": 1.0, "dev_accuracy": 50.0}, step=1)
        logger.save()
        assert before.read() == "step,train_loss\n0,2.0\n"  # the file that a kill would have left

    logger.log_metrics({"train_loss": 0.5}, step=2)
    logger.save()
    with path.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert rows == [
        {"step": 0, "train_loss": 2.0},
        {"step": 1, "train_loss": 1.0, "dev_accuracy": 50.0},
        {"step": 2, "train_loss": 0.5},
    ]
    assert [p.name for p in path.parent.iterdir() if p.suffix == ".part"] == []
