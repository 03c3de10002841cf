"""LexGLUE as the paper reports it: trained on CaseHOLD, evaluated on MMLU law.

Source: `coastalcph/lex_glue` (`case_hold`) and `cais/mmlu` on the hub. Splits: train is CaseHOLD's
train; calibration and dev come from its validation split; the reported set is the test rows of
professional law, international law and jurisprudence. A local folder of CaseHOLD may be a sample
(see task `casehold`); the training rows are then partial.
"""

from collections.abc import Sequence
from typing import ClassVar

from trimlab.data.mixture import Mixture
from trimlab.data.task import Task
from trimlab.data.tasks.casehold import CaseHOLD
from trimlab.data.tasks.mmlu_law import MMLULaw


class LexGLUE(Mixture):
    """The prompt `harness` applies to MMLU; CaseHOLD has a single prompt."""

    licence = f"{CaseHOLD.licence}; {MMLULaw.licence} (MMLU)"
    official: ClassVar = {"train": 45_000, "validation": 3_900}  # of CaseHOLD
    prompts = MMLULaw.prompts

    def parts(self, split: str) -> Sequence[Task]:
        """MMLU law for the test split, CaseHOLD for the others."""
        return MMLULaw().parts(split) if split == "test" else (CaseHOLD(),)
