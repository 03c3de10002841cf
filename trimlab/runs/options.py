"""What a run does around the trimming."""

from dataclasses import dataclass, field
from pathlib import Path

from trimlab.errors import InputError


@dataclass(frozen=True)
class RunOptions:
    """What a run does around the trimming.

    Attributes:
        dir: Run folder; a start in the folder of an unfinished run with the same config resumes.
        full_depth: Also fine-tune the untrimmed model on the same rows with as many optimizer
            steps, to compare with.
        speed: Measure decoding speed of the full model and of the exports, side by side.
        further: Also report length-normalised accuracy, and stability: how far a model keeps to
            what the untrimmed one knows (LLM-Streamline). Both need the likelihood of every
            choice in full, where accuracy alone needs the likeliest.
        generate: Test items that each model also answers in its own words (exact match of a
            greedy answer, in percent); 0: none. Slow.
        also_on: Other tasks on whose test items every model is scored, too.
        compare: Methods of `baselines/` to compare with, such as `sparsegpt`. One that compresses
            weights does so with the fine-tuned model at full depth or, without `full_depth`, with
            the final trimmed one; one that changes the structure starts from the untrimmed model,
            and what is left is trained, every sublayer of it, for as many epochs.
        shared: Folder in which runs keep what none of their options changes (the untrimmed
            model's answers), so that the next run need not compute it again.
    """

    dir: Path = Path("runs/trim")
    full_depth: bool = True
    speed: bool = True
    further: bool = False
    generate: int = 0
    also_on: list[str] = field(default_factory=list)
    compare: list[str] = field(default_factory=list)
    shared: Path | None = None

    def __post_init__(self) -> None:
        if self.generate < 0:
            raise InputError(f"run.generate must be 0 or more, not {self.generate}")
        if len({*self.compare}) < len(self.compare):
            raise InputError(f"run.compare names a method twice: {', '.join(self.compare)}")
