import re
import shutil
from pathlib import Path

import pytest
from pets import many_results, report, result

from deployments.report.page import render_report, write_report


def test_page_shows_every_number_it_was_given():
    page = render_report(report())
    for text in ("pets", "1 label a class", "4 items tested", "50.0 ± 40.0", "0.90", "75 %", "metafuse.prior 3"):
        assert text in page


def test_columns_are_shown_with_what_each_carried_and_left_out_where_none_was_measured():
    page = render_report(report())
    assert "facts/weight_g" in page
    assert "0.50 ± 0.12" in page
    assert "width: 0%" in page
    assert "Which columns" not in render_report(report(result(columns={})))


def test_artwork_is_credited_with_its_licences():
    page = render_report(report())
    for text in ("OpenMoji", "CC BY-SA 4.0", "Twemoji", "CC BY 4.0", "Noto Emoji", "SIL OFL 1.1"):
        assert text in page


def test_text_from_the_data_is_escaped():
    page = render_report(report())
    assert "&lt;b&gt;Ada&lt;/b&gt;" in page
    assert "<b>Ada" not in page
    assert "Two &lt;classes&gt; were" in page


def test_page_loads_nothing():
    page = render_report(report())
    loaded = re.findall(r"<(?!a\b)[^>]*\b(?:src|href)=\"([^\"]*)\"", page) + re.findall(r"url\(|@import", page)
    assert loaded
    assert all(address.startswith("data:image/webp;base64,") for address in loaded)


def test_page_is_written_whole_and_alone(tmp_path):
    path = write_report(tmp_path / "docs" / "demo.html", report())
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(path.parent.iterdir()) == [path]


def test_result_without_a_map_and_report_without_results_have_pages():
    assert "Embedding map" not in render_report(report(result(embeddings=None)))
    bare = report()
    assert "<h3>" not in render_report(type(bare)(bare.title, (), bare.made_at, ()))


@pytest.mark.browser
def test_browser_shows_the_page_without_requests_or_errors(tmp_path: Path):
    from playwright.sync_api import sync_playwright

    path = write_report(tmp_path / "report.html", report(many_results(60, 6), result()))
    complaints: list[str] = []
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 420, "height": 900})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        page.select_option("select >> nth=0", "class-03")
        dimmed = page.locator("#map-1 g.dim").count()
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert complaints == []
    assert dimmed == 50
    assert width == 420
