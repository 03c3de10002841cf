"""Every table and figure from the golden records, and the report as a whole.

To accept a wanted change: `TRIMLAB_ACCEPT=1 pytest tests/analysis`, and read the diff.
"""

import contextlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import figure1, figure2, table2, table3, table7
from analysis._labels import Box, label_boxes
from analysis.commands import bench
from analysis.contents import Contents, Entry
from analysis.figure2 import frontier
from analysis.figure4 import one_drop_per_epoch, two_drops_per_epoch
from analysis.figure_growth import fit
from analysis.figures import Figure
from analysis.latex import latex
from analysis.markdown import markdown
from analysis.paper import Paper, read_paper
from analysis.report import build, markdown_files, write_report
from analysis.tables import Table
from trimlab import cli
from trimlab.records.result_row import ResultRow
from trimlab.records.results import Record, Records, Series, read_results

GOLDEN = Path(__file__).parent.parent / "golden"
COMMITTED = Path(__file__).parent.parent.parent / "results"
EXPERIMENTS = COMMITTED.parent / "experiments"
RECORDS = read_results(GOLDEN / "records")
FULL = Series("gemma-270m", "authors")
EVERYTHING = list(analysis.results())


def golden(name: str, text: str) -> None:
    path = GOLDEN / "report" / name
    if os.environ.get("TRIMLAB_ACCEPT"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def as_text(data: Any) -> str:
    return json.dumps(json.loads(json.dumps(data), parse_float=lambda f: round(float(f), 6)),
                      indent=1, ensure_ascii=False) + "\n"  # fmt: skip


@pytest.fixture(scope="module")
def contents() -> Contents:
    return build(RECORDS)


@pytest.fixture(scope="module")
def entries(contents: Contents) -> dict[str, Entry]:
    return {entry.name: entry for entry in contents.entries}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(out, GOLDEN / "records")
    return out


@pytest.fixture(scope="module")
def of_nothing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The report of no records, and what the verb prints."""
    folder = tmp_path_factory.mktemp("nothing")
    (folder / "results").mkdir()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run("report", "--out", folder / "out", "--results", folder / "results") == 0
    return folder / "out", printed.getvalue()


@pytest.fixture(scope="module")
def over_another(of_nothing: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second report of the golden records, where another one was."""
    out = tmp_path_factory.mktemp("over") / "out"
    shutil.copytree(of_nothing[0], out)
    (out / "figures" / "figures.png").write_text("mine")  # no name of ours
    assert (out / "figures" / "figure4.png").exists()
    write_report(out, GOLDEN / "records")
    return out


def test_every_file_of_a_table_or_figure_is_found_in_order() -> None:
    folder = Path(analysis.__file__).parent
    papers = [*folder.glob("table[0-9]*.py"), *folder.glob("figure[0-9]*.py")]
    ours = [*folder.glob("table_*.py"), *folder.glob("figure_*.py")]
    names = [name for name, _ in EVERYTHING]
    assert set(names) == {path.stem for path in (*papers, *ours)}
    # the paper's first, tables before figures, by number
    assert names[: len(papers)] == sorted(names[: len(papers)], key=lambda n: (n[0] == "f", n))
    assert {path.stem for path in ours} == set(names[len(papers) :])


def test_every_experiment_of_the_paper_has_its_table_or_figure() -> None:
    experiments = {path.stem for path in EXPERIMENTS.glob("*.yaml")}
    named = {name for name in experiments if re.fullmatch(r"(table|figure)\d+", name)}
    assert named and named <= {name for name, _ in EVERYTHING}


def title_start(name: str) -> str:
    """`Table 3:` for a result of the paper, which has a number; `Speed:` for one of ours."""
    kind, _, own = name.partition("_")
    return f"{own.capitalize()}:" if own else f"{kind[:-1].capitalize()} {kind[-1]}:"


@pytest.mark.parametrize(("name", "build_one"), EVERYTHING, ids=[name for name, _ in EVERYTHING])
@pytest.mark.parametrize("measured", [True, False], ids=["measured", "missing"])
def test_contract(name: str, build_one: Callable[..., Any], measured: bool) -> None:
    """With records and without, with published values and without, it builds."""
    records = RECORDS.by_series()[FULL] if measured else Records()
    for paper in (read_paper(), Paper({})):
        result = build_one(records, paper)
        assert isinstance(result, Table if name.startswith("table") else Figure)
        assert result.title.startswith(title_start(name))
        if isinstance(result, Table):
            assert all(cell.measured is None for *_, cell in result.cells()) or measured
            assert not re.search(r"\bnan\b", markdown(result) + latex(result))
        else:
            json.dumps(result.data, allow_nan=False)
            plot = result.interactive(result.data) if result.interactive else {}
            json.dumps(plot, allow_nan=False)


@pytest.mark.parametrize("name", [name for name, _ in EVERYTHING if name.startswith("table")])
def test_golden_tables(entries: dict[str, Entry], name: str) -> None:
    profile = "paper" if name == "table8" else "gemma-270m"
    table = entries[f"{name}-{profile}"].result
    assert isinstance(table, Table)
    golden(f"{name}.md", markdown(table))
    golden(f"{name}.tex", latex(table))
    golden(f"{name}.json", as_text(table.as_json()))


@pytest.mark.parametrize("name", [name for name, _ in EVERYTHING if name.startswith("figure")])
def test_golden_figures(entries: dict[str, Entry], name: str) -> None:
    figure = entries[f"{name}-gemma-270m"].result
    assert isinstance(figure, Figure)
    golden(f"{name}.json", as_text(figure.data))


def test_missing_cells_are_missing(entries: dict[str, Entry]) -> None:
    table = entries["table3-gemma-270m"].result
    assert isinstance(table, Table)
    cells = {(row.title, key): cell for _, row, key, cell in table.cells()}
    assert cells["bottom 50 %", "sciq/sciq"].measured is None
    assert cells["alternate 50 %", "sciq/sciq"].paper is None
    line = next(line for line in markdown(table).splitlines() if "bottom" in line)
    assert "63.9 \\| — \\| —" in line
    assert "table8-gemma-270m" not in entries


def test_a_new_baseline_is_in_the_tables_by_its_records_alone() -> None:
    def row_titles(build_one: Callable[..., Table], records: Records) -> list[str]:
        (group,) = build_one(records, read_paper()).groups
        return [row.title for row in group.rows if row.cells["layer_memory"].measured]

    compressed = full_records().of("table2").where(kind="compressed", method="awq")
    tuned, trimmed = (compressed.where(of=of).records[0] for of in ("fine_tuned", "trimmed"))
    of_full = changed(tuned, "table2", method="mine", title="My method", run="a")
    of_trimmed = changed(trimmed, "table7", method="mine", title="My method", run="b", cell={})
    records = full_records(of_full, of_trimmed)
    titles = row_titles(table2.build, records)
    assert titles.index("AWQ-int4") < titles.index("My method") < titles.index("TrimLLM (50%)")
    assert row_titles(table7.build, records)[-1] == "TrimLLM (50%) + My method"


def test_benchmarks_that_were_not_run_keep_their_place(entries: dict[str, Entry]) -> None:
    speed = entries["table_speed-llama-shaped"].result
    assert isinstance(speed, Table)
    (group,) = speed.groups
    assert [row.cells["faster"].paper for row in group.rows][:2] == ["≥ 4", "≥ 9"]
    measured = [row.cells["faster"].measured for row in group.rows]
    assert measured[0].mean == 5 and not any(measured[1:])


def test_a_goal_is_for_the_work_that_it_names(entries: dict[str, Entry]) -> None:
    speed = entries["table_speed-gemma-270m"].result
    assert isinstance(speed, Table)
    scored = speed.groups[0].rows[:2]
    assert [row.cells["work"].text for row in scored] == ["SciQ, rows 100", "SciQ, rows 10"]
    assert [row.cells["faster"].paper for row in scored] == ["≥ 10", None]


def test_benchmarks_stand_in_no_other_table_or_figure(entries: dict[str, Entry]) -> None:
    names = [name for name in entries if name.endswith("llama-shaped")]
    assert names == ["table_speed-llama-shaped"]
    assert "figure_growth-gemma-270m" in entries


def test_a_rehearsal_stands_apart(entries: dict[str, Entry], report: Path) -> None:
    full, rehearsal = (
        entries[f"table3-gemma-270m{suffix}"].result for suffix in ("", "-rehearsal20")
    )
    assert isinstance(full, Table) and isinstance(rehearsal, Table)
    assert "100.0 ± 0.0" not in markdown(full)
    assert "100.0 ± 0.0" in markdown(rehearsal)
    assert "REHEARSAL with 20 rows" in (report / "RESULTS.md").read_text()


def test_best_in_bold_and_dirty_said(entries: dict[str, Entry]) -> None:
    table = entries["table3-gemma-270m"].result
    assert isinstance(table, Table)
    text = markdown(table)
    # the best of the trimmed ones, not the larger model at 75 %
    assert "**67.5 ± 10.7**" in text
    assert "\\| 75.0 ± 9.9¹ \\|" in text
    assert "45.0 ± 11.4¹ (dirty)" in text
    assert r"\textbf{67.5 $\pm$ 10.7}" in latex(table)


def test_dropping_patterns_of_both_bypasses(entries: dict[str, Entry]) -> None:
    patterns = entries["figure3-gemma-270m"].result.data["patterns"]  # type: ignore[union-attr]
    medical = [p for p in patterns if p["task"] == "medmcqa"]
    assert [p["bypass"] for p in medical] == ["residual", "authors"]
    assert [p["counts"] for p in medical] == [
        {"attention": 2, "mlp": 2},
        {"attention": 1, "mlp": 3},
    ]
    residual = medical[0]
    assert residual["sublayers"][:3] == ["0.attention", "0.mlp", "1.attention"]
    # what is dropped has the lowest score of its line, and is -1 from the next one on
    for line, dropped, after in zip(
        residual["scores"], residual["dropped"], residual["scores"][1:], strict=False
    ):
        for column in dropped:
            assert line[column] == min(s for s in line if s not in (None, -1))
            assert after[column] == -1


def test_frontier() -> None:
    points = [(0.5, 70), (0.5, 60), (0.4, 60), (1.0, 70), (1.0, 80), (0.4, 60)]
    data = [{"layer_memory_ratio": ratio, "value": value} for ratio, value in points]
    assert frontier(data) == [2, 5, 0, 4]


def full_records(*more: Record) -> Records:
    return Records((*RECORDS.by_series()[FULL], *more))


def changed(record: Record, *experiments: str, **fields: Any) -> Record:
    return Record(ResultRow.from_row(record.row | fields), "more.jsonl", 1, experiments)


def trimmed_on_sciq() -> Record:
    return next(iter(full_records().of("table3").where(kind="test", model="trimmed", task="sciq")))


def test_every_point_of_the_frontier_is_named_beside_it(entries: dict[str, Entry]) -> None:
    figure = entries["figure2-gemma-270m"].result
    assert isinstance(figure, Figure)
    drawing = figure.draw(figure.data)
    for axes, task in zip(drawing.axes, figure.data["tasks"], strict=True):
        written = {text.get_text() for text in axes.texts}
        assert written >= {point["method"] for point in task["points"] + task["paper"]}
    (legend,) = drawing.legends
    names = [text.get_text() for text in legend.get_texts()]
    kinds = {point["family"] for task in figure.data["tasks"] for point in task["points"]}
    assert {*names} >= kinds and len(names) == len(kinds) + 2  # published, frontier


def test_labels_cover_neither_points_nor_one_another() -> None:
    area = Box(0, 0, 6, 4)
    points = [(3.0, 2.0), (3.0, 2.05), (3.05, 2.0), (3.0, 1.0), (5.9, 3.9), (0.1, 0.1)]
    boxes = label_boxes(points, [(1.0, 0.1)] * len(points), area)
    marks = [Box(x - 0.05, y - 0.05, x + 0.05, y + 0.05) for x, y in points]
    for i, box in enumerate(boxes):
        assert not any(box.covers(other) for other in [*boxes[:i], *marks])
        assert box.left >= 0 and box.bottom >= 0 and box.right <= 6 and box.top <= 4


def test_a_run_about_time_is_no_point_of_the_frontier() -> None:
    lucky = changed(trimmed_on_sciq(), "table9", n=4, correct="1111", value=100.0, run="lucky")
    data = figure2.build(full_records(lucky), Paper({})).data
    points = [point for task in data["tasks"] for point in task["points"]]
    assert points and all(point["value"] < 100 for point in points)


def test_each_benchmark_is_drawn_from_the_first_experiment_that_has_it() -> None:
    one = changed(trimmed_on_sciq(), "figure1", value=1.0, correct=None, run="one", asked_ratio=0.3)
    tasks = {
        task["task"]: task for task in figure1.build(full_records(one), Paper({})).data["tasks"]
    }
    assert [point["value"] for point in tasks["sciq"]["test"]] == [1.0]
    assert tasks["medmcqa"]["test"]  # Table 3's, as before


def test_the_worst_of_fewer_benchmarks_is_not_compared() -> None:
    def held_to(records: Records) -> Any:
        table = table3.build(records, read_paper())
        (row,) = (row for row in table.groups[0].rows if row.title == "TrimLLM both")
        return row.cells["final_memory"].measured

    assert held_to(full_records()) is not None
    points = full_records().of("table3").where(kind="operating_point")
    elsewhere = changed(
        next(iter(points)), "table3", task="piqa", cell={"trim.scorer": "random"}, run="elsewhere"
    )
    assert held_to(full_records(elsewhere)) is None


def test_equations() -> None:
    """Eq. 5 and Eq. 6 are the sums over the epochs."""
    for n_d in range(2, 64, 2):
        assert one_drop_per_epoch(n_d) == sum(64 - k for k in range(n_d))
        assert two_drops_per_epoch(n_d) == sum(64 - 2 * k for k in range(n_d // 2))
    assert one_drop_per_epoch(3, n=10, c=2) == 2 * (10 + 9 + 8)


def test_measured_time_is_in_units_of_the_runs_own_first_epoch(entries: dict[str, Entry]) -> None:
    run = entries["figure4-gemma-270m"].result.data["measured"][0]  # type: ignore[union-attr]
    # 60, 55 and 50 s of training, 10 s of scan each; a sparse first epoch counts 0.6
    assert run["time"][:3] == pytest.approx([0.6, 0.6 * 115 / 60, 0.6 * 165 / 60])
    assert run["time_with_scans"][0] == pytest.approx(0.6 * 70 / 60)
    assert run["formula"][:3] == pytest.approx([0.6, 0.6 * (1 + 7 / 8), 0.6 * (1 + 7 / 8 + 6 / 8)])


def test_lines_through_growing_costs(entries: dict[str, Entry]) -> None:
    data = entries["figure_growth-gemma-270m"].result.data  # type: ignore[union-attr]
    (scans,), (epochs,) = data["axes"]["sublayers"], data["axes"]["r"]
    assert scans["fit"] == pytest.approx([0.01, 0.02])
    assert [p["value"] for p in scans["points"]] == [8, 16, 24, 36]
    assert scans["work"] == "SciQ, items 8, context tokens 64"
    # the epoch at r = 1 is above the line of the others
    assert epochs["fit"] == pytest.approx([4, 8])
    # two points are no reason for a line of two coefficients
    assert fit(scans["points"][:2], (2, 1)) is None


def test_a_run_costs_what_its_epochs_and_scans_do(entries: dict[str, Entry]) -> None:
    run = entries["figure_growth-gemma-270m"].result.data["run"]  # type: ignore[union-attr]
    one, two = run["curves"]
    assert run["n"] == 36 and run["sparse"] == 9 / 20
    assert one["epochs"][2] == pytest.approx((36 + 35 + 34) / 36)
    assert two["epochs"][1] == pytest.approx((36 + 34) / 36)
    assert one["scans"][1] == pytest.approx(1 + (35**2 + 2 * 35) / (36**2 + 2 * 36))
    assert two["scans"][1] == pytest.approx(1 + (34**2 + 2 * 34) / (36**2 + 2 * 36))


def test_golden_findings(contents: Contents) -> None:
    golden("FINDINGS.md", markdown_files(contents)["FINDINGS.md"])


def test_the_papers_cells_are_counted_once_whoever_measured_them(contents: Contents) -> None:
    counts = contents.coverage
    # five published benchmarks and ten methods for each of two models
    assert (counts["table2"].cells, counts["table2"].published) == (100, True)
    # all but AWQ's and the rows without records: those of SciQ, without our benchmark
    assert counts["table2"].anywhere == 9
    assert counts["table2"].measured == {FULL: 9}
    # values that are not known to us: all cells; LexGLUE is not measured
    assert (counts["table4"].cells, counts["table4"].anywhere) == (8, 3)
    # Gemma would be no cell of the paper's; OPT-1.3B is, under another profile
    assert counts["table8"].measured == {Series("paper", "authors"): 4}
    assert list(counts) == [f"table{n}" for n in range(1, 10)]


def test_the_whole_report(report: Path, contents: Contents) -> None:
    text = (report / "RESULTS.md").read_text()
    page = (report / "index.html").read_text()
    for name, entry in {entry.name: entry for entry in contents.entries}.items():
        result = entry.result
        folder = "tables" if isinstance(result, Table) else "figures"
        endings = (
            (".md", ".tex", ".json") if isinstance(result, Table) else (".png", ".pdf", ".json")
        )
        for ending in endings:
            assert (report / folder / f"{name}{ending}").stat().st_size > 100
        assert result.title in text
        assert f'id="{name}"' in page
    for link in re.findall(r"\]\((.+?)\)", text):
        assert (report / link).exists()
    assert "half-written" in (report / "PASSED_OVER.md").read_text() and "half-written" in page
    assert "trimlab sweep experiments/table3.yaml --profile gemma-270m --seeds 3" in text


def test_the_page_is_self_contained_and_every_link_leads_somewhere(report: Path) -> None:
    page = (report / "index.html").read_text()
    ours = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', ours)
    targets = set(re.findall(r' id="(.+?)"', ours))
    links = set(re.findall(r'href="#(.+?)"', ours))
    assert links <= targets
    anchors = {f"{record.file.removesuffix('.jsonl')}-{record.line}" for record in RECORDS}
    assert anchors <= targets
    assert "dirty tree" in ours and "rehearsal, 20 rows" in ours


def test_the_same_records_give_the_same_files(report: Path, over_another: Path) -> None:
    for path in report.rglob("*.*"):
        assert path.read_bytes() == (over_another / path.relative_to(report)).read_bytes(), path


def test_seeds_are_one_point_whichever_experiments_have_them() -> None:
    tests = RECORDS.where(limit=None).of("table3").where(kind="test", task="sciq", model="trimmed")
    both = [r for r in tests if r["cell"].get("trim.scorer") == "two_step"]
    first, second = both[0], next(r for r in both if r["seed"] == 1)
    for records in (
        (replace(first, experiments=("figure3", "table3")), second),
        (replace(first, experiments=("table3",)), replace(second, experiments=("x", "table3"))),
    ):
        (point,) = figure2.build(Records(records), Paper({})).data["tasks"][0]["points"]
        assert point["experiment"] == "table3" and point["seeds"] == [0, 1]


def test_what_an_earlier_report_wrote_is_not_left(over_another: Path) -> None:
    out = over_another
    assert not (out / "figures" / "figure4.png").exists()
    assert (out / "figures" / "figure4-gemma-270m.png").exists()
    assert (out / "figures" / "figures.png").exists()


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.mark.skipif(not COMMITTED.exists(), reason="no results in this checkout")
def test_the_committed_results_are_those_of_the_committed_records() -> None:
    """After a sweep or a change of a table: `trimlab report --out results`, and read the diff."""
    records = read_results(COMMITTED)
    contents = build(records)
    for name, text in markdown_files(contents).items():
        assert (COMMITTED / name).read_text() == text
    results = {entry.name: entry.result for entry in contents.entries}
    drawn = {name: result for name, result in results.items() if isinstance(result, Figure)}
    assert {path.stem for path in (COMMITTED / "figures").iterdir()} == set(drawn)
    for name, figure in drawn.items():
        data = json.loads((COMMITTED / "figures" / f"{name}.json").read_text())
        assert data == json.loads(json.dumps(figure.data)), name


def test_commands_name_a_shape_as_a_shape() -> None:
    shape = "trimlab bench decode --shape llama-7b --dtype bfloat16 "
    assert bench("decode", "llama-7b-shape").startswith(shape)
    assert bench("decode", "smollm2-135m").startswith("trimlab bench decode --model smollm2-135m ")


def test_the_verb(of_nothing: tuple[Path, str]) -> None:
    out, printed = of_nothing
    assert (out / "index.html").exists()
    assert "index.html" in printed


def test_the_verb_without_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "--out", tmp_path / "out", "--results", tmp_path / "none") == 2
    assert "no results in" in capsys.readouterr().err


def test_the_verb_without_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "analysis"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(
        sys, "path", [p for p in sys.path if not (Path(p or ".") / "analysis").exists()]
    )
    assert run("report", "--out", tmp_path, "--results", GOLDEN / "records") == 2
    assert "needs a clone" in capsys.readouterr().err
