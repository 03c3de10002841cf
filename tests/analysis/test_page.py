"""The page in a real browser: `make test-slow`, where Chromium is (Debian: `apt install chromium`).

Screenshots are kept in TRIMLAB_SCREENSHOTS, where that is set.
"""

import os
import shutil
from pathlib import Path

import pytest

from analysis.findings import questions
from analysis.report import write_report

RECORDS = Path(__file__).parent.parent / "golden" / "records"
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)"),
]


def test_the_page_works_offline(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    write_report(tmp_path, RECORDS)
    shots = Path(os.environ.get("TRIMLAB_SCREENSHOTS", tmp_path))
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
        page.set_default_timeout(120_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "index.html").as_uri())

        # one screen of summary, also on a phone: the rest is folded and nothing is cut at the side
        assert page.locator("details.result[open]").count() == 0
        assert page.locator("table.answers tbody tr").count() == len(list(questions()))
        for name, width, height in (("phone", 390, 844), ("wide", 1280, 900)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") == width
            page.screenshot(path=shots / f"{name}.png")

        # both plots are drawn, once they are visible
        page.click("#of-figure2 > summary")
        page.click("#of-figure3 > summary")
        page.wait_for_selector("#plot-figure2-gemma-270m .scatterlayer .point")
        names = page.locator("#plot-figure2-gemma-270m .textpoint text").all_text_contents()
        assert "both (two-step), r = 1/4" in names
        page.wait_for_selector("#plot-figure3-gemma-270m .heatmaplayer image")
        page.screenshot(path=shots / "page.png", full_page=True)

        # a number leads to its record, which opens
        page.click("#of-table3 > summary")
        page.click("#table3-gemma-270m ~ .scroll a[href='#table3-3']")
        record = page.locator("details#table3-3")
        assert record.get_attribute("open") is not None
        assert '"model": "trimmed"' in record.inner_text()
        page.screenshot(path=shots / "record.png")

        # so does a click on a point of the frontier
        page.evaluate("location.hash = ''")
        point = page.locator("#plot-figure2-gemma-270m .scatterlayer .point")
        point.first.scroll_into_view_if_needed()
        box = point.first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
        page.wait_for_selector("#plot-figure2-gemma-270m .hoverlayer .hovertext")
        page.mouse.down()
        page.mouse.up()
        page.wait_for_function("location.hash.startsWith('#table3-')")

        # the menus change what is shown
        def shown(plot: str) -> str:
            return page.evaluate(
                "id => { const plot = document.getElementById(id); return JSON.stringify("
                "[plot.data.map(trace => trace.visible), plot.layout.xaxis.title]) }",
                f"plot-{plot}-gemma-270m",
            )

        for plot, number, choice in (
            ("figure2", 0, "MedMCQA"),
            ("figure2", 1, "whole model left"),
            ("figure3", 0, "authors bypass"),
        ):
            before = shown(plot)
            page.locator(f"#plot-{plot}-gemma-270m .updatemenu-header").nth(number).click()
            button = page.locator(f"#plot-{plot}-gemma-270m .updatemenu-dropdown-button")
            button.filter(has_text=choice).first.click()
            assert shown(plot) != before
            page.locator(f"#plot-{plot}-gemma-270m").screenshot(path=shots / f"{plot}-{number}.png")
        assert "whole model left" in shown("figure2")
        browser.close()
    assert not problems
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
