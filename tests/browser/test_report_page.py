"""`make test-browser`: the report's page in a real Chromium, as people open it: from a file.

Needs the playwright package (extra `dev`) and a Chromium on the PATH, or named by CHROMIUM; what
is missing fails, nothing is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager

import pytest

from corp_ray.report import make_report
from tests import runs
from tests.report_runs import hostile_run

QUIET = ("background-networking", "component-update", "gpu", "quic", "sync")
ARGUMENTS = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in QUIET)]
SCHEMES, WIDTHS = ("light", "dark"), (380, 1600)


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail("no Chromium here: apt-get install chromium, or set CHROMIUM to its program")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("no playwright here: pip install playwright (extra dev)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = runs.workspace(folder, **{"run.report": True})
    code, _, err = runs.run(config)
    assert code == 0, err
    return folder / "runs/run"


@pytest.fixture(scope="module", params=["a run", "hostile texts", "a run that has only begun"])
def root(request, finished, tmp_path_factory):
    """A run directory with its report."""
    if request.param == "a run":
        return finished
    target = tmp_path_factory.mktemp("other") / "run"
    if request.param == "hostile texts":
        hostile_run(finished, target)
    else:
        target.mkdir()
        (target / "config.yaml").write_text("run: {id: early}\n")
    make_report(str(target))
    return target


@contextmanager
def opened(browser, root, *, scheme="light", width=1600):
    """The page; at its end nothing may have been asked for but the file, and nothing have failed."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong, asked = [], []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (root / "report/report.html").as_uri()
    try:
        page.goto(address)
        yield page
        page.wait_for_timeout(50)
        assert wrong == []
        assert [url for url in asked if not url.startswith("data:")] == [address]
        assert page.evaluate("window.pwned") is None
    finally:
        page.close()


def shown(text):
    """A number as people read it on the page; None for the dash."""
    text = text.split("\n")[0].strip()
    return None if text == "–" else float(text.replace("−", "-").replace(",", ""))


def test_the_page_opens_without_an_error_or_a_request_and_no_text_comes_alive(browser, root):
    with opened(browser, root) as page:
        assert page.title().endswith("corp_ray report")
        assert page.evaluate("document.scripts.length + document.images.length") == 0
        found = json.loads((root / "report/report.json").read_text())
        assert page.inner_text("#verdict") == found["verdict"]
        assert page.inner_text("#model") == found["model"]
        headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
        assert headings.count("H1") == 1
        unnamed = page.evaluate(
            "[...document.querySelectorAll('figure')].filter(f => !f.getAttribute('aria-labelledby')"
            ".split(' ').every(id => document.getElementById(id).textContent.trim())).length"
        )
        assert unnamed == 0


def test_every_number_of_the_summary_table_is_the_one_in_report_json(browser, root):
    found = json.loads((root / "report/report.json").read_text())
    rows = (found["summary"] or {"rows": []})["rows"]
    with opened(browser, root) as page:
        lines = page.query_selector_all("#summary tbody tr")
        assert [line.get_attribute("data-name") for line in lines] == [r["name"] for r in rows]
        for line, row in zip(lines, rows, strict=True):
            cells = {
                cell.get_attribute("data-key"): cell
                for cell in line.query_selector_all("[data-key]")
            }
            for key, digits in (("mean", 3), ("generated_tokens_per_item", 1)):
                assert shown(cells[key].inner_text()) == pytest.approx(
                    row[key], abs=0.51 / 10**digits
                )
            for key in ("gain", "low", "high"):
                value = shown(cells[key].inner_text()) if key in cells else None
                wanted = None if row[key] is None else pytest.approx(100 * row[key], abs=0.051)
                assert value == wanted
            for key in ("fixes", "regressions", "forward_passes"):
                assert shown(cells[key].inner_text()) == row[key]
            for key, cell in cells.items():
                data = cell.query_selector("data")
                if data is not None and key not in ("search", "gain_over_best_single"):
                    assert float(data.get_attribute("value")) == row[key]
            search = row["search"] or {"candidates": 0}
            if search["candidates"]:
                value = cells["search"].query_selector("data").get_attribute("value")
                assert float(value) == search["engine_s"]
                said = cells["search"].inner_text()
                assert f"{search['candidates']:,} directions" in said
                assert f"{search['answers']:,} answers" in said
                assert f"{search['generated_tokens']:,} tokens" in said
            over = row.get("gain_over_best_single")
            cell = cells.get("gain_over_best_single")
            if cell is None or over is None:
                assert over is None and (cell is None or shown(cell.inner_text()) is None)
                continue
            assert float(cell.query_selector("data").get_attribute("value")) == over["gain"]
            ends = cell.query_selector("small").inner_text().split(" to ")
            for value, key in zip([cell.inner_text(), *ends], ("gain", "low", "high"), strict=True):
                assert shown(value) == pytest.approx(100 * over[key], abs=0.051)


def test_the_tables_of_a_diagnosis_hold_its_numbers_and_names(browser, root):
    diagnosis = json.loads((root / "report/report.json").read_text())["diagnosis"] or {}
    outcomes, rounding = diagnosis.get("outcomes"), diagnosis.get("rounding")
    with opened(browser, root) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        rows = page.query_selector_all("#outcomes tbody tr")
        wanted = outcomes["elite"]["by_center_outcome"] if outcomes else {}
        assert len(rows) == (len(wanted) + 1 if outcomes else 0)
        for row, one in zip(rows, wanted.values(), strict=False):
            cells = [shown(cell.inner_text()) for cell in row.query_selector_all("td")]
            assert cells[0] == one["examples"]
            assert cells[1] == pytest.approx(100 * one["gain"], abs=0.051)
            assert cells[2] == pytest.approx(one["fixes"], abs=0.051)
        rows = page.query_selector_all("#rounding tbody tr")
        wanted = [rounding["total"], *rounding["rows"]] if rounding else []
        assert len(rows) == len(wanted)
        for row, one in zip(rows, wanted, strict=True):
            cells = [cell.inner_text() for cell in row.query_selector_all("td")]
            assert shown(cells[4]) == pytest.approx(one["cosine"], abs=0.51e-4)
            name = row.query_selector("th").evaluate("one => one.textContent")
            assert name[:20] == one["name"][:20].replace("\x1b", "␛")


def test_how_answers_begin_is_what_report_json_says(browser, root):
    flips = json.loads((root / "report/report.json").read_text())["flips"] or {"openings": []}
    with opened(browser, root) as page:
        rows = page.query_selector_all("#openings tbody tr")
        assert len(rows) == len(flips["openings"])
        for row, one in zip(rows, flips["openings"], strict=True):
            name = row.query_selector("th").evaluate("one => one.textContent")
            if one["opening"]:
                assert name == "".join(
                    chr(0x2400 + ord(c)) if c < " " else c for c in one["opening"]
                )
            cells = [shown(cell.inner_text().rstrip("% ")) for cell in row.query_selector_all("td")]
            for at, side in ((0, "before"), (2, "after")):
                assert cells[at] == pytest.approx(100 * one[side]["share"], abs=0.051)
                mean = one[side]["mean"]
                assert cells[at + 1] == (None if mean is None else pytest.approx(mean, abs=0.51e-3))
            assert cells[4] == pytest.approx(100 * one["after"]["gain"], abs=0.051)


_COLOURS = """() => {
  const at = (element, name) => getComputedStyle(element)[name];
  return {
    page: at(document.body, 'backgroundColor'), ink: at(document.body, 'color'),
    texts: [...document.querySelectorAll('figure svg text')].map(text => {
      let around = text.closest('figure');
      return [text.textContent, at(text, 'fill'), at(around, 'backgroundColor'),
              at(text, 'fontFamily') === at(around.querySelector('svg'), 'fontFamily')];
    }),
    cells: [...document.querySelectorAll('figure svg path')].map(path => at(path, 'fill')),
    words: [...document.querySelectorAll('p, td, th, dt, dd, figcaption, summary, small')].map(
      word => [word.textContent.slice(0, 40), at(word, 'color')]),
  };
}"""


def parsed(colour):
    """Red, green and blue of a computed colour."""
    return [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]


def contrast(one, other):
    def luminance(colour):
        parts = [part / 255 for part in parsed(colour)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_light_and_dark_are_two_pages_and_both_can_be_read(browser, root):
    colours = {}
    for scheme in SCHEMES:
        with opened(browser, root, scheme=scheme) as page:
            colours[scheme] = page.evaluate(_COLOURS)
    light, dark = colours["light"], colours["dark"]
    assert contrast(light["page"], dark["page"]) > 10 and contrast(light["ink"], dark["ink"]) > 10
    for found in colours.values():
        for text, fill, behind, own_font in found["texts"]:
            assert contrast(fill, behind) >= 4.5, text
            assert own_font, text
        for text, colour in found["words"]:
            assert contrast(colour, found["page"]) >= 4.5, text
    if light["texts"]:
        changed = [a[1] != b[1] for a, b in zip(light["texts"], dark["texts"], strict=True)]
        assert all(changed)
        assert light["cells"] != dark["cells"]


def test_the_numbers_in_heat_maps_can_be_read_on_every_shade(browser, finished):
    for scheme in SCHEMES:
        with opened(browser, finished, scheme=scheme) as page:
            roles = [f"--{name}" for name in ("ink", *(f"d{step}" for step in range(9)))]
            ink, *shades = page.evaluate(
                """roles => roles.map(role => {
                  const probe = document.createElement('i');
                  probe.style.color = `var(${role})`;
                  document.body.append(probe);
                  return getComputedStyle(probe).color;
                })""",
                roles,
            )
            assert len(set(shades)) == 9
            assert min(contrast(ink, shade) for shade in shades) >= 4.5


@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_makes_the_page_scroll_sideways(browser, root, width):
    with opened(browser, root, width=width) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.body.scrollWidth") <= width
        outside = page.evaluate(
            """() => [...document.querySelectorAll('main *')].filter(one =>
              !one.closest('.scroll') && !one.closest('thead') && !one.closest('svg') &&
              one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML)"""
        )
        assert outside == []


def test_folded_parts_open_and_hold_the_whole_text(browser, root):
    found = json.loads((root / "report/report.json").read_text())
    with opened(browser, root) as page:
        folded = page.query_selector_all("details")
        assert folded
        for one in folded:
            if one.is_visible():
                one.query_selector("summary").click()
                assert one.evaluate("one => one.open")
        texts = page.evaluate(
            "[...document.querySelectorAll('.flips pre')].map(e => e.textContent)"
        )
        for one in (found["flips"] or {"shown": []})["shown"]:
            for key in ("question", "text_before", "text_after"):
                whole = one[key].replace("\x00", "␀").replace("\x07", "␇").replace("\x1b", "␛")
                assert not whole or any(whole.strip("\n") == text.strip("\n") for text in texts)
