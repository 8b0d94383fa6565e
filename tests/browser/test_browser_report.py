"""The report in a real browser: nothing fails, nothing is asked for, and it fits a phone and a sheet of paper."""

from __future__ import annotations

import pytest
from PIL import Image

import dreamo_batch as dreamo

PROMPTS = [
    "on a beach",
    "雨夜的城市街道",
    "</style><script>document.title='owned'</script>" + "x" * 200,
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a run with failures, an ambiguous row, a hostile prompt and more seeds than fit side by side."""
    folder = tmp_path_factory.mktemp("shown")
    Image.new("RGB", (64, 64), "orange").save(folder / "fox.png")
    jobs = dreamo.sweep(image=str(folder / "fox.png"), prompt=PROMPTS, seed=range(12), size="512x512")
    faults = {"script": {"create": ["fail_099", "drop_after_accept", "fail_moderation"]}}
    with dreamo.LocalGateway(engine="flat", faults=faults) as gateway:
        dreamo.run(jobs, folder / "run", gateway=gateway, progress=False, unit_cost="0.03")
    return dreamo.report(folder / "run")


@pytest.fixture
def opened(browser, report):
    """Open the report; afterwards nothing may have failed or been asked for."""
    contexts, heard, asked = [], [], []

    def open_(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert heard == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()] * len(contexts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_picture_is_shown_and_no_script_runs(opened, scheme):
    """Each is decoded, in both looks; what a prompt says stays text."""
    page = opened(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
    assert page.title() == "Report of run"
    assert page.locator("img").count() > 30
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    """From a small phone to a desk."""
    page = opened(viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_links_lead_to_sections(opened):
    """Every one of them exists."""
    page = opened(viewport={"width": 390, "height": 800})
    targets = page.eval_on_selector_all("nav a", "links => links.map(link => link.getAttribute('href'))")
    assert {"#money", "#failures", "#ambiguous", "#methods"} <= set(targets)
    assert all(page.locator(target).count() == 1 for target in targets)


def test_a_cell_unfolds_without_a_script(opened):
    """A click on a picture tells of its job."""
    page = opened(viewport={"width": 1200, "height": 900})
    cell = page.locator("#pictures details").first
    cell.locator("summary").click()
    assert cell.get_attribute("open") is not None


def test_it_prints(opened):
    """As a PDF of a few pages."""
    pdf = opened(viewport={"width": 1200, "height": 900}, color_scheme="dark").pdf(prefer_css_page_size=True)
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 12
