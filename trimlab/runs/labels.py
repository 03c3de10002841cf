"""The models of a run and their numbers in words, for the printed table and the run's page."""

from trimlab.records.model_result import ModelResult
from trimlab.records.run_summary import RunSummary

TITLES = {"untrimmed": "untrimmed", "fine_tuned": "fine-tuned, full depth"}
HEURISTICS = {"majority": "majority", "word_overlap": "word overlap, no model"}

# after the name of a baseline: the model that it made smaller
OF = {
    "untrimmed": "fine-tuned after it",
    "fine_tuned": "of the fine-tuned",
    "trimmed": "of the trimmed",
}


def labelled_models(summary: RunSummary) -> list[tuple[str, ModelResult]]:
    """Label and result of every model that is measured so far; those of baselines last."""
    labelled = []
    for name, model in summary.named_models():
        where = "reloaded" if model.folder else "in memory"
        labelled.append((TITLES.get(name, f"trimmed, {where}"), model))
    for made in summary.compared.values():
        labelled += [(f"{model.title}, {OF[model.of or 'trimmed']}", model) for model in made]
    return labelled


def percent(ratio: float) -> str:
    """A ratio in percent."""
    return f"{100 * ratio:.1f} %"
