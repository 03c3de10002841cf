"""Every race runs on a tiny model, compares what it times, and writes lines that stand alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trimlab import cli
from trimlab.bench._benchmark import BENCHMARKS, Bench, Measurement, load_bench
from trimlab.bench._timing import Turns, race
from trimlab.bench.scan import items_needed, spread
from trimlab.bench.train import every_nth
from trimlab.errors import InputError
from trimlab.model.llama_shaped import llama_shaped
from trimlab.model.loading import load_model
from trimlab.model.sublayers import Sublayer
from trimlab.plugins import plugin_names
from trimlab.records.results import read_results
from trimlab.records.rows import append_row
from trimlab.scanning.scan import Scan
from trimlab.scanning.selection import lowest
from trimlab.scorers import load_scorer

SMALL = {
    "score": ["--rows", "6", "--batch_sizes", "[1,2]"],
    "scan": ["--rows", "6", "--peer_sublayers", "3", "--batch_sizes", "[2]"],
    "train": ["--rows", "8", "--batch_size", "4", "--micro_batch_size", "2"],
    "run": ["--rows", "8", "--calibration_rows", "6", "--batch_size", "4", "--scan", "choice"],
    "decode": ["--new_tokens", "2", "--prompt_tokens", "4"],
    "prefill": ["--prompt_tokens", "8"],
    "growth": [
        *("--sublayers", "[2,4]", "--items", "[2]", "--lengths", "[16]"),
        *("--ratios", "[0.5]", "--rows", "4"),
    ],
}
RACES = [
    (name, peer) for name in plugin_names(BENCHMARKS) for peer in (None, *load_bench(name).peers)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), num_hidden_layers=3)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.mark.parametrize(("name", "peer"), RACES, ids=str)
def test_every_race(
    name: str,
    peer: str | None,
    base: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if peer == "lm-eval":
        pytest.importorskip("lm_eval")
    against = ["--against", peer] if peer else []
    out = tmp_path / "bench.jsonl"
    code = run(
        *("bench", name, "--model", base, "--data.task", "jsonl", "--data.root", root),
        *("--repeats", 1, "--out", out, "--json", *SMALL[name], *against),
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    lines = [json.loads(line) for line in printed.out.splitlines() if line.startswith("{")]
    assert lines == rows and rows
    for row in rows:
        assert row["bench"] == name and row["ours_seconds"] > 0 and row["ours_peak_bytes"] > 0
        assert row["settings"]["threads"] >= 1 and row["versions"]["torch"]
        assert row["cell"].items() >= {"bench": name, **({"peer": peer} if peer else {})}.items()
        assert (row["profile"], row["task"], row["limit"]) == (base.name, "jsonl", None)
        assert bool(row["row_sets"]) == (name not in ("decode", "prefill"))
        if peer:
            assert row["peer"] == peer
            assert row["ratio"] == row["peer_seconds"] / row["ours_seconds"]
    # they are results like all others, and every line is a measurement of its own
    assert len(read_results(tmp_path)) == len(rows)
    if name == "score" and peer:
        same = rows[0]["same"]
        assert same["same_predictions"] == same["items"] == 6
        assert same["largest_relative_difference"] < 1e-4
    if name == "scan" and peer:
        same = rows[0]["same"]
        if peer == "all-scores":
            assert same["same_choice"] is True
            assert 0 < same["share_needed"] <= same["share_met"] <= 1
        else:
            assert same["same_accuracies"] == len(same["accuracies"]) == 3
            assert rows[0]["peer_factor"] == 2
    if name == "growth":
        assert [row["settings"]["axis"] for row in rows] == [
            *("sublayers", "sublayers", "items", "context_tokens", "r"),
        ]


def test_a_repeated_measurement_takes_the_place_of_the_older(tmp_path: Path) -> None:
    class Timed(Bench):
        seconds = 0.0

        def measure(self) -> Iterator[Measurement]:
            question = {"rows": self.turns["ours"]}
            yield Measurement("x", Turns([self.seconds], [1]), question=question)

    for repeats, seconds in ((1, 2.0), (1, 1.0), (2, 4.0)):
        timed = Timed(model="gemma-3-270m", repeats=repeats)
        timed.seconds = seconds
        for row in timed.rows():
            append_row(tmp_path / "bench.jsonl", row)
    records = read_results(tmp_path)
    assert [record["ours_seconds"] for record in records] == [1.0, 4.0]
    assert {record["profile"] for record in records} == {"gemma-270m"}
    assert "was run again" in records.notices[0]


def test_without_json_a_table_is_printed(
    base: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", base, "--data.task", "jsonl", "--data.root", root]
    out = ["--out", tmp_path / "bench.jsonl", "--repeats", 1]
    assert run("bench", "score", "--against", "naive", "--rows", 4, *options, *out) == 0
    printed = capsys.readouterr().out
    assert "naive" in printed and "ratio" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "no bench 'nosuch'; there are decode, growth"),
        (["score", "--against", "nobody"], "no peer 'nobody'"),
        (["score", "--repeats", "0"], "repeats must be at least 1"),
        (["score", "--rows", "many"], "rows"),
        (["score", "--rows", "0"], "--rows must be at least 1, not 0"),
        (["scan", "--peer_sublayers", "0"], "--peer_sublayers must be at least 1"),
        (["score", "--batch_sizes", "[4,0]"], "--batch_sizes must be at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--against", "trainer", "--micro_batch_size", 3], "3 does not divide"),
        (["train", "--r", 1.5], "--r must be in (0, 1], not 1.5"),
        (["growth", "--sublayers", "[2,8]"], "8 sublayers asked for, and the model has 6"),
    ],
    ids=str,
)
def test_what_cannot_be_raced_on_a_model(
    arguments: list[object],
    message: str,
    base: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ("--model", base, "--data.task", "jsonl", "--data.root", root)
    assert run("bench", *arguments, *where, "--out", tmp_path / "bench.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bench.jsonl").exists()


def test_the_scan_s_own_choice_is_trained(base: Path, root: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "bench.jsonl", "--repeats", 1)
    options = ("--model", base, "--data.task", "jsonl", "--data.root", root, *SMALL["train"])
    for trainable in ("every_nth", "scan"):
        assert run("bench", "train", "--trainable", trainable, *options, *out) == 0
    evenly, chosen = read_results(tmp_path)
    assert [record["cell"].get("trainable") for record in (evenly, chosen)] == [None, "scan"]
    # another share of the model learns, from the same rows
    assert evenly["same"]["ours_loss"] != chosen["same"]["ours_loss"]
    assert evenly["row_sets"] == chosen["row_sets"] != {}


def test_help_lists_the_races_and_explains_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--help") == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in plugin_names(BENCHMARKS))
    assert run("bench", "scan", "--help") == 0
    printed = capsys.readouterr().out
    for option in ("--against", "--rows", "--data.root", "--peer_sublayers", "--threads"):
        assert option in printed


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def contender(name: str) -> Any:
        return lambda: lambda: order.append(name) or name

    found = race({"ours": contender("a"), "peer": contender("b")}, {"ours": 3, "peer": 1})
    assert order == ["a", "b", "a", "a"]
    assert len(found["ours"].seconds) == 3 and found["peer"].result == "b"


def test_a_measurement_by_hand() -> None:
    row = Measurement(
        "x", Turns([1.0, 3.0, 2.0], [10, 30, 20]), Turns([8.0], [60]), "other", factor=6
    ).row()
    assert (row["ours_seconds"], row["ours_spread"], row["ours_peak_bytes"]) == (2.0, 2.0, 30)
    assert (row["peer_seconds"], row["ratio"], row["memory_ratio"]) == (48.0, 24.0, 0.5)


def test_unknown_race() -> None:
    with pytest.raises(InputError, match="no bench 'x'"):
        load_bench("x")


def test_the_peers_sublayers_are_spread_over_depth_and_kind() -> None:
    everything = [(Sublayer(block, kind),) for block in range(18) for kind in ("attention", "mlp")]
    chosen = [s for (s,) in spread(everything, 6)]
    assert len(set(chosen)) == 6 and chosen == sorted(chosen)
    assert {s.kind for s in chosen} == {"attention", "mlp"}
    assert chosen[0].block < 3 and chosen[-1].block > 14


def test_what_any_exact_scan_has_to_run() -> None:
    found = [(Sublayer(0, "attention"),), (Sublayer(0, "mlp"),), (Sublayer(1, "mlp"),)]
    scorer = load_scorer("sensitivity")

    def needed(*accuracies: float) -> int:
        whole = Scan(found, {"accuracy": list(accuracies)}, n_blocks=2)
        return items_needed(whole, scorer, lambda scores: lowest(found, scores, 1), 4)

    # a tie goes to the first: nothing has to be known of the others
    assert needed(100, 75, 25) == needed(100, 100, 100) == 4
    # one wrong answer of the first, which would else tie; the last would lose a tie
    assert needed(75, 100, 25) == 1 + 4 + 0
    # the last is chosen for one right answer; to tie would be to win, so all others must fail
    assert needed(0, 0, 25) == 4 + 4 + 1


def test_every_fourth_sublayer_is_trainable_and_the_first() -> None:
    stack = [Sublayer(block, kind) for block in range(18) for kind in ("attention", "mlp")]
    assert every_nth(stack, 0.25) == stack[::4]
    assert every_nth(stack, 1) == stack


def test_the_llama_shaped_model(tmp_path: Path) -> None:
    folder = llama_shaped(tmp_path, ["plants take in carbon dioxide", "the sun shines"], blocks=1)
    model, tokenizer = load_model(str(folder))
    block = sum(p.numel() for p in model.model.layers.parameters())
    ends = sum(p.numel() for p in model.parameters()) - block
    assert 130e6 < ends + 32 * block < 140e6
    ids = tokenizer("plants shine")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "plants shine"
