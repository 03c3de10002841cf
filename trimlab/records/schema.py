"""The schema of the results of experiments: which fields a row must have."""

from typing import Any

from trimlab.records.rows import Row

SCHEMA = 1


_EVERY_KIND = (
    *("experiment", "profile", "cell", "run", "seed", "limit", "git_commit", "versions"),
    *("hardware", "base", "task", "prompt", "row_sets"),
)


# the fields that a row must have, by its kind
FIELDS = {
    "operating_point": (
        *("step", "epoch", "optimizer_steps", "dropped", "history", "trainable", "scan", "dev"),
        *("dev_stderr", "dev_n", "metric", "layer_memory_ratio", "model_memory_ratio", "seconds"),
        *("scan_seconds", "accepted", "finished"),
    ),
    "test": (
        *("model", "evaluated_on", "asked_ratio", "layer_memory_ratio", "model_memory_ratio"),
        *("metric", "value", "stderr", "n", "correct", "optimizer_steps", "dropped"),
    ),
    "timing": ("method", "epochs", "hours"),
    "compressed": (
        *("method", "title", "of", "evaluated_on", "asked_ratio", "layer_memory_ratio"),
        *("model_memory_ratio", "zeros", "metric", "value", "stderr", "n", "correct"),
        *("optimizer_steps", "dropped"),
    ),
    "bench": (
        *("bench", "what", "peer", "ours_seconds", "ours_spread", "ours_turns", "ours_peak_bytes"),
        *("same", "settings"),
    ),
}


# and those of a race that somebody took part in
PEER_FIELDS = (
    *("peer_seconds", "peer_spread", "peer_turns", "peer_peak_bytes", "peer_factor", "ratio"),
    "memory_ratio",
)


MODELS = ("untrimmed", "fine_tuned", "trimmed")


TIMING_METHODS = ("full_ft", "sparse_ft", "trimllm")


def schema_problem(row: Any) -> str | None:
    """Why a row cannot be one of this version's, or None."""
    if not isinstance(row, dict):
        return "not a JSON object"
    if row.get("schema") != SCHEMA:
        return f"schema {row.get('schema')!r}, and this version of trimlab reads schema {SCHEMA}"
    return None


def _problem(row: Any) -> str | None:
    """What is wrong with a row, or None."""
    if problem := schema_problem(row):
        return problem
    kind = row.get("kind")
    if kind not in FIELDS:
        return f"unknown kind {kind!r}; known: {', '.join(FIELDS)}"
    required = (*_EVERY_KIND, *FIELDS[kind], *(PEER_FIELDS if row.get("peer") else ()))
    missing = [field for field in required if field not in row]
    if missing:
        return f"{kind} without {', '.join(missing)}"
    if kind == "test" and row["model"] not in MODELS:
        return f"unknown model {row['model']!r}; known: {', '.join(MODELS)}"
    if kind == "compressed" and row["of"] not in MODELS:
        return f"compressed of unknown {row['of']!r}; known: {', '.join(MODELS)}"
    if kind in ("test", "compressed"):
        return _answers_problem(row)
    if kind == "timing" and row["method"] not in TIMING_METHODS:
        return f"unknown method {row['method']!r}; known: {', '.join(TIMING_METHODS)}"
    return None


def _answers_problem(row: Row) -> str | None:
    correct = row["correct"]
    if correct is None:
        return None
    if set(correct) - {"0", "1"} or len(correct) != row["n"]:
        return f"`correct` is not one 0 or 1 for each of the {row['n']} items"
    if (
        row["metric"] == "accuracy"
        and abs(100 * correct.count("1") / row["n"] - row["value"]) > 0.01
    ):
        return (
            f"{correct.count('1')} of {row['n']} items are correct, and the value is {row['value']}"
        )
    return None
