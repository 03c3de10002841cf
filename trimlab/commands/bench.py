"""Race against what a user would run instead, side by side."""

from trimlab.commands._quiet import quiet
from trimlab.errors import InputError
from trimlab.plugins import plugin_names


def run(arguments: list[str]) -> None:
    """`trimlab bench`: a race, side by side in one process."""
    quiet()
    import json
    from pathlib import Path

    from jsonargparse import ArgumentParser
    from rich.console import Console

    from trimlab.bench._benchmark import BENCHMARKS, load_bench, table_of
    from trimlab.records.rows import append_row

    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: trimlab bench NAME [options]\n")
        print("Times trimlab and a peer in turns, in one process, and compares what they computed.")
        print("Write `trimlab bench NAME --help` for the options of one of these:\n")
        for name in plugin_names(BENCHMARKS):
            doc = (load_bench(name).__doc__ or "").partition("\n")[0]
            print(f"  {name:8} {doc} Peers: {', '.join(load_bench(name).peers) or 'none'}.")
        return
    name = arguments[0]
    bench_class = load_bench(name)
    parser = ArgumentParser(
        prog=f"trimlab bench {name}", exit_on_error=False, description=bench_class.__doc__
    )
    parser.add_class_arguments(bench_class, skip={"task", "root"})
    parser.add_argument("--data.task", type=str, default="sciq", help="name of a task")
    parser.add_argument("--data.root", type=Path | None, help="folder with local .jsonl files")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench.jsonl"), help="where the lines are appended"
    )
    options = parser.parse_args(arguments[1:]).as_dict()
    as_json, out = options.pop("json"), options.pop("out")
    data = options.pop("data")
    for option, value in options.items():  # numbers of things, all of them but the seed
        values = value if isinstance(value, (list, tuple)) else [value]
        if option != "seed" and any(type(number) is int and number < 1 for number in values):
            raise InputError(f"--{option} must be at least 1, not {value}")
    with bench_class(task=data["task"], root=data["root"], **options) as bench:
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in bench.rows():
            append_row(out, row)
            rows.append(row)
            if as_json:
                print(json.dumps(row), flush=True)
    if not as_json:
        Console().print(table_of(rows))
