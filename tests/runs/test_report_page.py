"""`report.html`: what a finished, a killed and an unfinished run show of themselves."""

import itertools
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import trimlab
from tests.runs.test_run import kill_and_resume, start
from trimlab.data.encoding import encode
from trimlab.data.items import Item
from trimlab.records.rows import read_rows
from trimlab.runs.page.chart import Axis
from trimlab.runs.page.curves import read_curves, thinned
from trimlab.runs.page.examples import texts, visible

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The tags and the text of a page; fails on tags that do not close."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.titles, self._open = "", list[str](), list[str]()
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["title"]:
            self.titles.append(data)
        self.text += data

    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


HOSTILE = "<script>alert(1)<!-- & co"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Any) -> Path:
    """A base model whose name is HTML."""
    return tiny_folder(tmp_path_factory.mktemp("base") / HOSTILE)


@pytest.fixture(scope="module")
def finished(hostile: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    start(hostile, root, folder, full_depth=True, speed=True, save_at=[0.75])
    return folder


def test_the_page_says_the_result_first(finished: Path) -> None:
    page, summary = page_of(finished), json.loads((finished / "summary.json").read_text())
    words = page.words()
    for name in ("untrimmed", "fine_tuned", "trimmed"):
        model = summary[name]
        said = f"{model['accuracy']:.1f} ± {model['stderr']:.1f}"
        assert said in words[: words.index("Accuracy, size, speed")]
    trimmed = summary["trimmed"]
    assert "It has 50.0 % of the layer memory" in words
    assert f"decodes {trimmed['tokens_per_second']:.1f} tokens/s" in words
    assert f"{trimmed['untrimmed_tokens_per_second']:.1f}" in words
    assert f"trimming stopped because: {summary['stopped_because']}" in words
    assert "Not finished" not in words


def test_nothing_is_loaded_and_nothing_of_the_data_becomes_html(finished: Path) -> None:
    page = page_of(finished)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not {"src", "href", "onclick", "onerror"} & attributes.keys()
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv")]
    assert str(policy).startswith("default-src 'none'")
    for text in (HOSTILE, "<s>question: "):  # special tokens look like tags, too
        assert text in page.text


def test_figures_have_every_point_drop_and_score(finished: Path) -> None:
    page, points = page_of(finished), read_rows(finished / "record.jsonl")
    summary = json.loads((finished / "summary.json").read_text())
    for point in points:
        dev = f"step {point['step']}: dev {point['dev']:.1f} ± {point['dev_stderr']:.1f}"
        assert any(title.startswith(dev) for title in page.titles)
        for name in point["dropped"]:
            (said,) = [t for t in page.titles if t.startswith(f"{name}: dropped in step")]
            assert f"dropped in step {point['step']} with score" in said
    for before, point in itertools.pairwise(points):
        said = f"after optimizer step {before['optimizer_steps']}: dropped "
        assert page.titles.count(said + ", ".join(point["dropped"])) == 2  # loss, dev
    kept = {name for entry in points[-1]["scan"] for name in entry["candidate"].split("+")}
    kept -= set(points[-1]["history"])
    assert kept
    for name in kept:
        scores = [
            entry["score"][0]
            for entry in points[-1]["scan"]
            if name in entry["candidate"].split("+")
        ]
        assert f"step 2, {name}: score {min(scores):.4g}" in page.titles
    for model in summary["models"]:
        said = f"test {model['accuracy']:.1f} ± {model['stderr']:.1f} (n = 24)"
        assert any(title.startswith(said) for title in page.titles)
    for title in ("untrimmed, test", "fine-tuned, full depth, test"):
        assert title in page.text


def test_right_and_wrong_items_are_what_the_model_answers(finished: Path) -> None:
    words = page_of(finished).words()
    correct = json.loads((finished / "summary.json").read_text())["trimmed"]["correct"]
    right, wrong = words.split("Right by the trimmed model")[1].split("Wrong by the trimmed model")
    for part, answer in ((right, "1"), (wrong.split("Data set")[0], "0")):
        numbers = [int(text.split()[0]) for text in part.split("Test item ")[1:]]
        assert len(numbers) == min(5, correct.count(answer))
        assert {correct[number - 1] for number in numbers} <= {answer}
        assert part.count("✓ the right answer") == len(numbers)


def test_an_item_is_shown_from_its_tokens(tiny_tokenizer: Any) -> None:
    tokenizer = tiny_tokenizer()
    item = Item("is it a b c d e f", (" a b", " a c"), 1)
    whole, cut = (encode(tokenizer, item, length) for length in (100, 6))
    prompt, choices = texts(tokenizer, whole)
    for choice, text in zip(choices, item.choices, strict=True):
        ids = tokenizer(item.context + text)["input_ids"]
        assert prompt + choice == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert len(texts(tokenizer, cut)[0]) < len(prompt)
    assert texts(tokenizer, cut)[1] == choices


def test_characters_that_hide_are_shown_as_escapes() -> None:
    assert visible("a\nb\x00\u200e\ud800 é 漢") == "a\nb\\x00\\u200e\\ud800 é 漢"


def test_a_killed_run_has_a_page_and_each_step_once(
    base: Path, root: Path, finished: Path, tmp_path: Path
) -> None:
    killed, seen = tmp_path / "killed", []

    def again(folder: Path) -> None:
        if folder.exists() and (folder / "report.html").exists():
            seen.append(page_of(folder).words())
        start(base, root, folder)

    kill_and_resume(killed, "mid-scan", again)
    assert any("no trimmed model yet" in words and "Not finished" in words for words in seen)
    assert "Not finished" not in page_of(killed).words()
    curves = read_curves(killed, "accuracy")
    assert curves == read_curves(finished, "accuracy")  # of the same weights and rows
    assert [step for step, _ in curves.loss] == list(range(1, 19))  # 3 epochs of 6
    points = read_rows(killed / "record.jsonl")
    assert [dev for _, dev in curves.dev] == pytest.approx([point["dev"] for point in points])
    assert [step for step, _ in curves.dev] == [point["optimizer_steps"] for point in points]


def test_a_log_that_a_killed_process_left_counts_up_to_the_next_one(tmp_path: Path) -> None:
    for version, rows in (
        (0, ["1,0,9.0,", "1,1,8.0,", "1,1,,50.0", "2,2,7.0,", "2,3,nan,", "2,"]),
        (1, ["2,2,7.5,", "2,3,6.5,", "2,3,,60.0"]),
        (10, ["3,4,5.5,"]),
    ):
        folder = tmp_path / "logs" / f"version_{version}"
        folder.mkdir(parents=True)
        text = "\n".join(["epoch,step,train_loss,dev_accuracy", *rows])
        (folder / "metrics.csv").write_text(text)
    curves = read_curves(tmp_path, "accuracy")
    assert curves.loss == [(1, 9.0), (2, 8.0), (3, 7.5), (4, 6.5), (5, 5.5)]
    assert curves.dev == [(2, 50.0), (4, 60.0)]
    assert thinned(curves.loss, most=3) == ([(2, 8.5), (4, 7.0), (5, 5.5)], 2)


def test_plain_text_has_a_page_without_right_and_wrong(base: Path, tmp_path: Path) -> None:
    for name, count in (("train", 24), ("validation", 40), ("test", 8)):
        words = ["".join("abcde"[i // 5**k % 5] for k in range(4)) for i in range(count)]
        rows = [{"text": f"{name} {word} is a text"} for word in words]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trimlab.trim(
        str(base),
        "text",
        tmp_path / "run",
        recipe="paper",
        data={"root": tmp_path, "calibration_rows": 15, "dev_rows": 15, "batch_size": 4},
        run={"full_depth": False, "speed": False},
        trainer={"enable_progress_bar": False, "accelerator": "cpu"},
        target_layer_memory=0.75,
        packable=True,
        progress=False,
    )
    words = page_of(tmp_path / "run").words()
    assert "Test 100 exp(-loss) of the trimmed model" in words
    assert "by the trimmed model" not in words


def test_a_page_that_cannot_be_written_stops_no_run(
    finished: Path, root: Path, hostile: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "report.html").unlink()
    (curves := next((folder / "logs").rglob("metrics.csv"))).rename(folder / "kept.csv")
    curves.mkdir()  # which cannot be read
    with pytest.warns(UserWarning, match="report.html was not written"):
        start(hostile, root, folder, full_depth=True, speed=True, save_at=[0.75])
    curves.rmdir()
    (folder / "kept.csv").rename(curves)
    start(hostile, root, folder, full_depth=True, speed=True, save_at=[0.75])
    assert page_of(folder).words() == page_of(finished).words()


def test_ticks_are_round_and_within_the_axis() -> None:
    assert Axis("", 0.0, 100.0).ticks() == [0, 20, 40, 60, 80, 100]
    assert Axis("", 47.3, 52.9).ticks() == [48, 49, 50, 51, 52]
    assert Axis.around("", [50.0, 50.0], least=5).ticks() == [48, 49, 50, 51, 52]
