"""LexGLUE as the paper reports it: trained on CaseHOLD, evaluated on MMLU law.

Source: `coastalcph/lex_glue` (`case_hold`) and `cais/mmlu` on the hub. Splits: train is CaseHOLD's
train; calibration and dev come from its validation split; the reported set is the test rows of
professional law, international law and jurisprudence. Locally CaseHOLD may be a sample of which
train, calibration and dev are carved (see task `casehold`): then the training rows are partial.
"""

from collections.abc import Sequence
from typing import ClassVar

from trimlab.data.task import Mixture, Task
from trimlab.data.tasks.casehold import CaseHOLD
from trimlab.data.tasks.mmlu_law import MMLULaw


class LexGLUE(Mixture):
    """CaseHOLD is asked in the same way whatever the prompt, MMLU in both."""

    licence = f"{CaseHOLD.licence}; {MMLULaw.licence} (MMLU)"
    official: ClassVar = {"train": 45_000, "validation": 3_900}  # CaseHOLD's
    # TrimLLM, Table 2
    paper: ClassVar = {
        "LLaMA-7B w/o training": 32.1,
        "LLaMA-7B Full-FT": 42.9,
        "LLaMA-7B TrimLLM (50%)": 42.0,
        "LLaMA-13B w/o training": 37.2,
        "LLaMA-13B Full-FT": 48.3,
        "LLaMA-13B TrimLLM (50%)": 46.3,
    }
    prompts = MMLULaw.prompts

    def parts(self, split: str) -> Sequence[Task]:
        """MMLU law is the test set, CaseHOLD the rest."""
        return MMLULaw().parts(split) if split == "test" else (CaseHOLD(),)
