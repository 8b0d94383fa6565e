"""Blind choices by keys, in JupyterLab and on a page of its own, in Chromium."""

from __future__ import annotations

from PIL import Image
from playwright.sync_api import expect

import dreamo_batch as dreamo


def test_keys_choose_call_ties_and_undo(shop, notebook, screen):
    """Each key brings the next pair, and stands in the directory; at the end the scores are shown."""
    shop.open_for_good()
    book = notebook(
        shop.setup(n_rows=3),
        shop.call("run"),
        "seeds = dreamo.compare(done, by='seed', pairs=3, rater='ann')\nseeds",
    )
    book.run(0, 1, 2)
    shown = book.output(2).locator(".dreamo-compare").first
    expect(shown.locator(".dc-sides img")).to_have_count(2)
    expect(shown).to_contain_text("0 of 3")
    screen.take_all("compare", shown)
    for key, count in (
        ("ArrowLeft", "1 of 3"),
        ("ArrowDown", "2 of 3"),
        ("u", "1 of 3"),
        ("ArrowRight", "2 of 3"),
    ):
        # Twice before the kernel can answer: the pair was seen once.
        shown.evaluate(
            """(shown, key) => {
              for (let n = 0; n < 2; n++) shown.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
            }""",
            key,
        )
        expect(shown).to_contain_text(count)
    shown.focus()
    shown.get_by_role("button", name="choose left").first.click()
    expect(shown).to_contain_text("3 of 3")
    expect(shown.locator("table")).to_contain_text("strength_low")
    screen.take_all("compare-scores", shown)
    scores = dreamo.compare(shop.run_dir, pairs=3, rater="ann").scores()
    assert scores["choices"].tolist() == [2, 2, 2]
    assert (scores["won"].sum(), scores["tied"].sum()) == (3, 0)


def test_a_page_takes_choices_without_a_kernel(shop, tab, tmp_path):
    """They outlive the page, and Python takes in the file that is saved there; nothing is asked of the network."""
    image = tmp_path / "reference.png"
    Image.new("RGB", (64, 64), "orange").save(image)
    jobs = dreamo.sweep(image=str(image), prompt=["<b>a fox</b>"], seed=range(1, 4), size="512x512")
    shop.open_for_good()
    done = dreamo.run(jobs, shop.run_dir, gateway=shop.gateway, progress=False)
    comparison = dreamo.compare(done, by="seed", pairs=3)
    page = comparison.to_html(tmp_path / "pairs.html", progress=False)
    asked, heard = [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: heard.append(message.text))
    tab.goto(page.as_uri())
    shown = tab.locator(".dreamo-compare")
    expect(shown).to_contain_text("<b>a fox</b>")
    for key, count in (
        ("ArrowLeft", "1 of 3"),
        ("ArrowDown", "2 of 3"),
        ("u", "1 of 3"),
        ("ArrowRight", "2 of 3"),
    ):
        tab.keyboard.press(key)
        expect(shown).to_contain_text(count)
    tab.reload()
    expect(shown).to_contain_text("2 of 3")
    expect(shown.locator(".dc-sides img")).to_have_count(2)
    assert tab.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
    shown.get_by_role("button", name="choose left").first.click()
    expect(shown).to_contain_text("Save your choices")
    tab.get_by_label("Your name").fill('Ann "the fox", B.')
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save your choices").click()
    assert download.value.suggested_filename == "choices-Ann-the-fox-B.csv"
    download.value.save_as(tmp_path / "saved.csv")
    assert comparison.add_choices(tmp_path / "saved.csv") == 3
    scores = comparison.scores('Ann "the fox", B.')
    assert (scores["choices"].sum(), scores["tied"].sum()) == (6, 0)
    assert heard == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {page.as_uri()}
