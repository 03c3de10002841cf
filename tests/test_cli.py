"""The command: its verbs, its errors, every shipped config, and what the README says to type."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trimlab import cli
from trimlab.bench._benchmark import load_benchmark
from trimlab.commands import fit
from trimlab.plugins import plugin_names

REPOSITORY = Path(__file__).parent.parent
# experiments of many runs are tested in test_sweep.py
CONFIGS = [
    path
    for path in sorted((REPOSITORY / "experiments").glob("*.yaml"))
    if "\nruns:" not in path.read_text()
]
README = (REPOSITORY / "README.md").read_text()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("base"), "gemma3_text", num_hidden_layers=4)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.fixture
def tiny(base: Path, root: Path) -> list[object]:
    """Overrides that make any config a matter of a second."""
    return [
        *("--model.base", base, "--data.task", "jsonl", "--data.root", root),
        *("--data.train_rows", 16, "--data.calibration_rows", 10, "--data.dev_rows", 10),
        *("--data.test_rows", 10, "--data.batch_size", 8, "--run.full_depth", "false"),
        *("--run.trim_from", "base", "--run.speed", "false", "--trim.progress", "false"),
        *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
    ]


def test_help_is_quick_and_names_the_verbs() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "trimlab.cli"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(re.findall(r"\| +(\w+)", done.stderr))
    assert "trimlab" in imported and "argparse" in imported
    assert not {"torch", "transformers", "lightning", "jsonargparse"} & imported
    for word in (*plugin_names(cli.VERBS), "examples:", "exit codes"):
        assert word in done.stdout


def test_help_of_fit_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--help") == 0
    text = capsys.readouterr().out
    for option in ("trim.r ", "trim.packable", "data.root", "model.lr", "run.dir", "--resume"):
        assert option in text
    assert "Sparse update ratio" in text


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs_on_a_tiny_model(
    config: Path, tiny: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny, "--run.trim_from", "base", "--run.dir", tmp_path / "run"]
    assert run("fit", "--config", config, *options) == 0
    # the command that the table ends with finds what the table says
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("try next:")]
    trimmed = json.loads((tmp_path / "run" / "summary.json").read_text())["trimmed"]
    assert run(*shlex.split(line)[3:], "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row.keys() >= {"model", "task", "metric", "value", "stderr", "n"}
    assert (row["value"], row["n"]) == (pytest.approx(trimmed["accuracy"]), trimmed["n"])


def test_the_same_command_again_says_what_was_found(
    tiny: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--run.dir", tmp_path / "run") == 0
    assert run(*command, "--run.dir", tmp_path / "run", "--resume") == 0
    first, second = capsys.readouterr().out.split("try next:", 1)
    assert "stopped because:" in first
    assert "stopped because:" in second


def test_options_under_their_earlier_names(
    tiny: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a config file, on the command line, and in the folder of a run."""
    text = (REPOSITORY / "experiments" / "own_data.yaml").read_text()
    for name, option in (("earlier", "further"), ("present", "extra_metrics")):
        (tmp_path / f"{name}.yaml").write_text(text.replace("\nrun:", f"\nrun:\n  {option}: true"))
    folder = tmp_path / "run"
    command = [*tiny, "--run.dir", folder, "--trim.min_accuracy_share", "0"]
    present = ["fit", "--config", tmp_path / "present.yaml", *command]
    assert run(*present, "--run.eval_tasks", "[jsonl]") == 0
    summary = (folder / "summary.json").read_bytes()
    assert json.loads(summary)["trimmed"]["eval_tasks"].keys() == {"jsonl"}
    config = (folder / "config.yaml").read_text()
    assert "extra_metrics: true" in config and "further" not in config
    # the same run, which is done
    earlier = ["fit", f"--config={tmp_path / 'earlier.yaml'}", *command, "--run.also_on=[jsonl]"]
    assert run(*earlier) == 0
    (folder / "config.yaml").write_text(
        config.replace("extra_metrics:", "further:").replace("eval_tasks:", "also_on:")
    )
    assert run(*earlier) == 0
    assert (folder / "summary.json").read_bytes() == summary
    capsys.readouterr()
    assert run(*earlier, "--run.also_on=[]") == 2
    assert "another config (run.eval_tasks: ['jsonl'] there, [] here)" in capsys.readouterr().err


BAD = {
    "unknown key": (["--trim.nosuch", "1"], "nosuch"),
    "unknown value": (["--data.prompt", "mine"], "prompt"),
    "wrong type": (["--trim.r", "much"], "trim.r"),
    "r out of range": (["--trim.r", "0"], "trim.r"),
    "no such task": (["--data.task", "nosuch"], "no task 'nosuch'"),
    "no such scorer": (["--trim.scorer", "nosuch"], "two_step"),
    "no such model": (["--model.base", "/no/such/folder"], "/no/such/folder"),
    "no such root": (["--data.root", "/no/such/folder"], "/no/such/folder"),
    "impossible target": (["--trim.target_layer_memory", "0.001"], "below what is possible"),
    "impossible latency": (["--trim.target_latency_ms", "0"], "below what is possible"),
    "a share in percent": (["--trim.min_accuracy_share", "90"], "between 0 and 1"),
    "hub out of reach": (["--data.task", "sciq", "--data.root", "null"], "give local .jsonl files"),
    "too few rows": (["--data.calibration_rows", "1000"], "lower data.calibration_rows"),
    "no rows": (["--data.train_rows", "0"], "data.train_rows"),
    "negative rate": (["--model.lr", "-1"], "model.lr"),
    "negative decay": (["--model.weight_decay", "-1"], "model.weight_decay"),
    "a rate that rises": (["--model.final_lr_share", "2"], "model.final_lr_share"),
    "a warm-up below zero": (["--model.warmup_steps", "-1"], "model.warmup_steps"),
    "no tokens": (["--model.train_tokens", "0"], "model.train_tokens"),
    "no such strategy": (["--trainer.strategy", "nosuch"], "nosuch"),
    "nothing to resume": (["--resume"], "nothing to resume"),
    "planned by the target": (["--trainer.max_epochs", "3"], "trainer.max_epochs"),
    "no validation": (["--trainer.limit_val_batches", "0"], "leave validation on"),
    "no such seed": (["--seed_everything", "-1"], "from 0 to 4294967295"),
    "too long a name": (["--data.root", "x" * 300], "too long for the name of a file"),
    "no home": (["--model.base", "~nosuch_user"], "there is no model '~nosuch_user'"),
    "no config file": (["--config", "/no/such.yaml"], "/no/such.yaml"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str,
    tiny: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # no test asks the hub: nobody answers at this port
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    extra, message = BAD[case]
    folder = tmp_path / "run"
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--run.dir", folder, *extra) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not folder.exists()  # nothing half-written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trim: {nosuch: 1}", "nosuch"),
        ("trim: {r: much}", "trim.r"),
        ("trim: [", "while parsing"),
        ("- trim", "must hold keys and values"),
        ("trim: {save_at: 2001-99-99}", "is no YAML"),
        ("trim: {scorer: \udcff}", "not UTF-8"),
        ("trim: [{r: 0.5}]", "trim in a config holds options"),
        ("data: 3", "data in a config holds options (name: value), not 3"),
        ("data: {task: null}", "data.task cannot be null"),
        ("data: {test_share: null}", "data.test_share cannot be null"),
        ("config: {}\nruns: [{}]", "`trimlab sweep` makes the runs of an experiment"),
    ],
)
def test_a_bad_config_is_one_line_and_exit_2(
    content: str,
    message: str,
    tiny: list[object],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.yaml").write_bytes(content.encode(errors="surrogateescape"))
    command = ["fit", *tiny, "--config", tmp_path / "bad.yaml", "--run.dir", tmp_path / "run"]
    assert run(*command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("data.max_length", 0, 1), ("batch_size", 0, 1), ("generate", -1, 0)],
)
def test_eval_wants_numbers_of_something(
    option: str, value: int, least: int, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("eval", base, "--tasks", "jsonl", f"--{option}", value) == 2
    assert f"{option} must be at least {least}, not {value}" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    out = ("--data.task", "jsonl", "--out", tmp_path / "out")
    for command in (("eval", "nosuch", "--tasks", "nosuch"), ("compress", "gptq", "nosuch", *out)):
        assert run(*command, "--device", "cuda") == 2
        error = capsys.readouterr().err
        assert "device cuda: " in error and error.count("\n") == 1


def test_eval_says_where_and_in_which_type_it_computed(
    root: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", base, "--tasks", "jsonl", "--data.root", root, "--json"]
    rows = []
    for dtype in ("auto", "bfloat16"):
        assert run(*command, "--device", "cpu", "--dtype", dtype) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert [row["device"] for row in rows] == ["cpu", "cpu"]
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert abs(rows[0]["value"] - rows[1]["value"]) < 100 / 3  # near-ties of a random model


@pytest.mark.parametrize("rows", [0, -1])
def test_eval_wants_test_rows(
    rows: int, root: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", base, "--tasks", "jsonl", "--data.root", root, "--data.test_rows", rows]
    assert run(*command) == 2
    assert "data.test_rows must be at least 1" in capsys.readouterr().err


def test_eval_reads_every_task_before_it_scores_one(
    root: Path, base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimlab.model.loading.load_model", _never)
    assert run("eval", base, "--tasks", "jsonl,nosuch", "--data.root", root) == 2
    assert "no task 'nosuch'" in capsys.readouterr().err


def _never(*_: object) -> Any:
    raise AssertionError("the model is not wanted yet")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(
    split: str,
    tiny: list[object],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).write_text("\n" if file.stem == split else file.read_text())
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--data.root", tmp_path, "--run.dir", tmp_path / "run") == 2
    assert f"{split}.jsonl has no rows" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "train.jsonl:2: not JSON"),
        ('{"question": "x", "choices": ["a"], "answer": 0}', "train.jsonl:2: 1 choices"),
        ('{"question": "x", "choices": ["a", "b"], "answer": 2}', "train.jsonl:2: answer 2"),
        ('{"question": "x", "choices": ["a", "b"]}', "train.jsonl:2: no column 'answer'"),
    ],
)
def test_bad_rows_name_file_and_line(
    line: str,
    message: str,
    tiny: list[object],
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    lines = (root / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([lines[0], line, *lines[1:]]))
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--data.root", tmp_path, "--run.dir", tmp_path / "run") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_row_in_two_sets_is_refused(
    tiny: list[object], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in root.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    shared = (root / "test.jsonl").read_text().splitlines()[3]
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write(shared + "\n")
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--data.root", tmp_path, "--run.dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "train.jsonl:25" in error
    assert "test.jsonl:4" in error


def test_a_model_of_another_kind_is_refused(
    tiny: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_tokenizer: Any
) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    tiny_tokenizer().save_pretrained(tmp_path / "bloom")
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--model.base", tmp_path / "bloom", "--run.dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "llama" in error
    assert "trimlab/model/families/bloom.py" in error


def test_cut_items_are_said_once(
    tiny: list[object],
    root: Path,
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    short = ("--data.max_length", 25)
    said = "items were longer than 25 tokens (data.max_length) and lost their beginning"
    for line in ((), ("--backend", "lm-eval")):
        assert (
            run("eval", base, "--tasks", "jsonl", "--data.root", root, "--json", *short, *line) == 0
        )
        found = capsys.readouterr()
        assert found.err.count(said) == 1 and "note: " in found.err and said not in found.out
    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    assert run(*command, "--run.dir", tmp_path / "run", *short) == 0
    error = capsys.readouterr().err
    for name in ("train", "calibration", "dev", "test"):
        assert error.count(f"{name} {said}") == 1


def test_eval_lets_the_model_write(
    root: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", base, "--tasks", "jsonl", "--data.root", root, "--json", "--generate", 3]
    assert run(*command) == 0
    rows = {r["metric"]: r for r in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["exact_match"]["n"] == 3 and 0 <= rows["exact_match"]["value"] <= 100
    # everything that it takes to ask again
    assert rows["accuracy"].items() >= {"prompt": "authors", "backend": "trimlab"}.items()
    assert rows["accuracy"]["rows"] and rows["accuracy"]["versions"]["torch"]
    assert rows["accuracy"]["max_length"] >= 1
    assert run(*command, "--backend", "lm-eval") == 2
    assert "--extra_metrics and --generate need the backend trimlab" in capsys.readouterr().err


def test_eval_shows_length_normalised_accuracy_when_asked(
    root: Path, tmp_path: Path, tiny_folder: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", tiny_folder(tmp_path), "--tasks", "jsonl", "--data.root", root, "--json"]
    found = {}
    for extra in ([], ["--extra_metrics"]):
        assert run(*command, *extra) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found[bool(extra)] = {row["metric"]: row for row in rows}
    assert run(*command, "--further") == 0  # its earlier name
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["metric"]: row for row in rows} == found[True]
    assert list(found[False]) == ["accuracy"]
    assert list(found[True]) == ["accuracy", "accuracy_normalised"]
    assert found[True]["accuracy"] == found[False]["accuracy"]
    # every choice of this domain is one letter
    normalised = found[True]["accuracy_normalised"]
    assert normalised["value"] == pytest.approx(found[True]["accuracy"]["value"])
    assert normalised["stderr"] == pytest.approx(found[True]["accuracy"]["stderr"])
    assert normalised["n"] == 24


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fti") == 2
    assert run() == 2
    assert "fit" in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    tiny: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save, folder = torch.save, tmp_path / "run"

    def without_room(state: Any, _file: Any) -> None:
        with Path("/dev/full").open("wb") as full:  # torch hides its error behind another
            save(state, full)

    command = ["fit", "--config", REPOSITORY / "experiments" / "own_data.yaml", *tiny]
    command += ["--run.dir", folder, "--trim.min_accuracy_share", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", without_room)
        assert run(*command) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.ckpt"))
    assert run(*command) == 0


def test_failure_while_running_is_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: list[str]) -> None:
        raise RuntimeError("the\nroof")

    monkeypatch.setattr(fit, "run", fail)
    assert run("fit") == 1
    assert capsys.readouterr().err == "trimlab: RuntimeError: the roof\n"
    with pytest.raises(RuntimeError):
        cli.main(["fit", "--debug"])


MODELS = ("full_depth", "0.5")  # of the quickstart


def readme_commands() -> list[str]:
    """Every `trimlab ...` line of the README's code blocks."""
    blocks = re.findall(r"```\w*\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("trimlab ")]


def test_the_readmes_commands(
    tiny: list[object], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").symlink_to(REPOSITORY / "experiments")
    for folder in ("my_domain", "DIR"):
        (tmp_path / folder).symlink_to(root)
    monkeypatch.chdir(tmp_path)
    commands = readme_commands()
    verbs = {*plugin_names("trimlab.commands")} - {"bundle"}  # which is shown in a sentence
    assert {shlex.split(command)[1] for command in commands} == verbs
    (tmp_path / "results").mkdir()
    for command in commands:
        verb, *arguments = shlex.split(command)[1:]
        if verb == "fit":
            # what the README gives comes last and wins, but for the data's place in --data.root
            arguments = [*arguments[:2], *tiny, *arguments[2:], "--trim.min_accuracy_share", "0"]
        elif verb == "data":
            arguments += tiny[: tiny.index("--run.full_depth")]
        elif verb == "sweep" and "--dry-run" not in arguments:
            # what a sweep makes is tested in test_sweep.py, and the line before is its dry run
            assert shlex.join(["trimlab", verb, *arguments, "--dry-run"]) in commands
            continue
        elif verb == "plan" and "--config" in arguments:
            arguments += tiny
        elif verb == "chat":
            monkeypatch.setattr("sys.stdin", io.StringIO("where is the owl?\n"))
            arguments = [*arguments[:-1], str(tiny[1]), "--new_tokens", "2"]
        elif verb == "bench":
            smaller = {"llama-7b": "smollm2-135m", "cuda": "cpu"}
            smaller |= {f"runs/quickstart/models/{name}": str(tiny[1]) for name in MODELS}
            arguments = [smaller.get(argument, argument) for argument in arguments]
            if "--methods" in arguments:
                arguments[-1] = "[pairs]"  # 2:4 sparsity has kernels on a GPU only
                arguments += ["--blocks", "2"]
            arguments += ["--repeats", "1"]
            arguments += [
                f"--{o}={value}" for o, value in load_benchmark(arguments[0]).tiny.items()
            ]
        assert run(verb, *arguments) == 0, command


def test_the_readmes_python(
    root: Path, tiny_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    base = tiny_folder(tmp_path, "gemma3_text", num_hidden_layers=5, layer_types=None)
    block = block.replace('"smollm2-135m"', repr(str(base)))
    small = {"root": str(root), "calibration_rows": 10, "dev_rows": 10}
    block = block.replace('"icd10_chapters", "runs/half",', f'"jsonl", "runs/half", data={small},')
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["summary"]["trimmed"]["layer_memory_ratio"] <= 0.5
    assert (tmp_path / "smaller" / "config.json").exists()


def test_every_file_that_the_readme_names_exists() -> None:
    section = README[README.index("## How it works") : README.index("### Adding one of each")]
    parts = (REPOSITORY / "trimlab", REPOSITORY / "analysis", REPOSITORY / "experiments")
    known = {path.name for part in parts for path in part.rglob("*")}
    known |= {path.name for path in REPOSITORY.iterdir()}
    names = re.findall(r"(\w+\.py|\w+(?=/))", section.split("```")[1])
    assert len(names) > 25
    assert set(names) <= known
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", section):
        assert (REPOSITORY / path).exists() or (REPOSITORY / "trimlab" / path).exists(), path


def test_every_folder_is_in_the_tree_of_the_readme() -> None:
    tree = README[README.index("## How it works") :].split("```")[1]
    for folder in (REPOSITORY / "trimlab").iterdir():
        if folder.is_dir() and folder.name != "__pycache__":
            assert f"{folder.name}/" in tree, folder.name


def test_a_walk_has_at_most_eight_steps() -> None:
    section = README[README.index("## How it works") : README.index("### Adding one of each")]
    walks = re.findall(r"\*\*From .*\*\*\n\n((?:\d\. .*\n)+)", section)
    assert len(walks) == 4
    assert all(walk.count("\n") <= 8 for walk in walks)


def test_eval_skips_what_fit_skips(
    base: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (root / "test.jsonl").read_text().splitlines()]
    rows[2]["choices"] = [f"{choice} {'x' * 80}" for choice in "abcde"]  # longer than max_length
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", base, "--tasks", "jsonl", "--data.root", tmp_path, "--data.max_length", 64]
    assert run(*command) == 2
    assert "test.jsonl:3" in capsys.readouterr().err
    assert run(*command, "--data.bad_rows", "skip", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["n"] == len(rows) - 1
    assert "note: skipped 1 test items" in shown.err and "test.jsonl:3" in shown.err
