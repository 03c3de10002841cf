"""The words and tables of a run's page."""

from trimlab.records.lost_accuracy import difference, lost_accuracy
from trimlab.records.model_result import ModelResult, with_stderr
from trimlab.records.rows import JsonObject
from trimlab.records.run_summary import RunSummary
from trimlab.runs.labels import HEURISTICS, TITLES, labelled_models, percent
from trimlab.runs.page.figures import metric_title

FEW_ITEMS = 5.0  # a standard error in percent, above which a comparison says little


def headline(summary: RunSummary) -> list[str]:
    """The result of a run in a few sentences; what there is of it while it runs."""
    if not summary.models:
        return ["This run has no trimmed model yet."]
    final, metric = summary.trimmed, metric_title(summary.metric).removesuffix(", %")
    said = f"Test {metric} of the trimmed model: {_score(final)} %"
    if summary.untrimmed is not None:
        said += f"; untrimmed: {_score(summary.untrimmed)} %"
    if summary.fine_tuned is not None:
        said += f"; fine-tuned at full depth: {_score(summary.fine_tuned)} %"
    layers, whole = percent(final.layer_memory_ratio), percent(final.model_memory_ratio)
    sentences = [f"{said}.", f"It has {layers} of the layer memory, {whole} of the whole model."]
    stored_layers, stored = final.memory_in_folder
    if final.tier == "T2" and stored_layers is not None and stored is not None:
        sentences.append(
            f"With its zeros, the folder has {percent(stored_layers)} of the layers and "
            f"{percent(stored)} of the model."
        )
    now, before = final.tokens_per_second, final.untrimmed_tokens_per_second
    if now and before:
        sentences.append(
            f"It decodes {now:.1f} tokens/s where the untrimmed model decodes {before:.1f} "
            f"({now / before:.2f} times as many)."
        )
    return sentences


def differences(summary: RunSummary) -> list[str]:
    """The trimmed model against others on the same items, with paired standard errors."""
    found = []
    for title, other in (
        ("untrimmed", summary.untrimmed),
        ("fine-tuned at full depth", summary.fine_tuned),
    ):
        if summary.models and other is not None and other.correct:
            found.append(f"Trimmed minus {title}: {difference(summary.trimmed, other)}.")
    return found


def table(summary: RunSummary) -> list[dict[str, str]]:
    """A row for every model, and for what is reached without one."""
    heuristics = summary.heuristic_baselines or {}
    rows = [
        {"model": title, "value": f"{heuristics[name]:.1f}"}
        for name, title in HEURISTICS.items()
        if name in heuristics
    ]
    speed = summary.trimmed.untrimmed_tokens_per_second if summary.models else None
    for label, model in labelled_models(summary):
        row = _row(label, model)
        if label == TITLES["untrimmed"] and speed is not None:
            row["speed"] = f"{speed:.1f}"
        rows.append(row)
    return rows


def warnings(summary: RunSummary, data: JsonObject) -> list[str]:
    """What a person should know before trusting the numbers."""
    said = list(data["notes"])
    if not summary.models:
        return said
    final = summary.trimmed
    said += lost_accuracy(final, summary.untrimmed, summary.fine_tuned)
    if final.stderr > FEW_ITEMS:
        said.append(
            f"{final.n} test items give a standard error of {final.stderr:.1f} points: "
            "more items tell models apart."
        )
    heuristics = summary.heuristic_baselines or {}
    best = max((heuristics[name] for name in HEURISTICS if name in heuristics), default=None)
    if best is not None and final.value <= best:
        said.append(f"A rule without a model reaches {best:.1f} %: the trimmed model no more.")
    if final.tier == "T2":
        said.append(
            "The export fills gaps with zeros (tier T2), so its folder is larger than the ratio "
            "says; trim.packable makes drops that leave no gaps."
        )
    return said


def about(summary: RunSummary) -> dict[str, JsonObject]:
    """Where the numbers come from: code, machine, versions, rows, times."""
    context = summary.context
    made = {"git commit": context.git_commit, "seed": summary.seed, "config": context.config_hash}
    seconds = summary.phase_seconds.items()
    sections: dict[str, JsonObject | None] = {
        "Run": {"base": context.base, "task": context.task, "prompt": context.prompt, **made},
        "Versions": context.versions,
        "Machine": context.hardware,
        "Rows read": context.rows_read,
        "Rows left out, as they are in another set": context.rows_dropped_as_shared,
        "Seconds": {name.replace("_", " "): f"{time:.1f}" for name, time in seconds},
    }
    return {title: section for title, section in sections.items() if section}


def _row(title: str, model: ModelResult) -> dict[str, str]:
    row = {
        "model": title,
        "value": _score(model),
        "n": str(model.n),
        "layers": percent(model.layer_memory_ratio),
        "whole": percent(model.model_memory_ratio),
    }
    stored_layers, stored = model.memory_in_folder
    if stored_layers is not None and stored is not None:
        row |= {"stored_layers": percent(stored_layers), "stored": percent(stored)}
    if model.bytes_on_disk is not None:
        row["disk"] = f"{model.bytes_on_disk / 1e6:.0f} MB"
    if model.tokens_per_second is not None:
        row["speed"] = f"{model.tokens_per_second:.1f}"
    if model.tier is not None:
        row["tier"] = model.tier
    return row


def _score(model: ModelResult) -> str:
    return with_stderr(model.value, model.stderr)
