"""The panel of a run in the background: it moves while the kernel is idle, and its buttons are obeyed."""

from __future__ import annotations

import re

from playwright.sync_api import expect

import dreamo_batch as dreamo

PROMPTS = (
    "on a beach at sunset, the light low over the water, footprints in the sand",
    "雨夜的城市街道,霓虹灯",
)
START, SHOW = 1, 2
IS_WHOLE = "12 of 12 rows settled (100 %)"


def opened(notebook, shop, *cells, n_rows=12):
    """Open a notebook that starts a run, two rows at a time, and shows its panel."""
    start = f"{shop.call('start', 'live', max_in_flight=2)}\nlive"
    book = notebook(shop.setup(n_rows=n_rows, prompts=PROMPTS), start, *cells)
    book.run(0, START)
    panel = panel_of(book, START)
    expect(panel).to_contain_text("2 in flight")
    return book, panel


def panel_of(book, at):
    return book.output(at).locator(".dreamo-panel")


def press(panel, words):
    panel.get_by_role("button", name=words).click()


def test_panel_moves_while_the_kernel_is_idle_and_pause_is_obeyed(shop, notebook, screen):
    """Numbers and pictures come by themselves; after Pause nothing is submitted, and Resume goes on to the end."""
    book, panel = opened(notebook, shop, "live.panel()")
    shop.finish_tasks()
    expect(panel).to_contain_text("2 of 12 rows settled")
    expect(panel.locator("img")).to_have_count(2)
    expect(panel).to_contain_text("2 in flight")
    screen.take_all("panel-running", panel)
    press(panel, "Pause")
    expect(panel).to_contain_text("Waiting for 2 submitted tasks")
    shop.finish_tasks()
    expect(panel).to_contain_text("4 of 12 rows settled")
    expect(panel).to_contain_text("Nothing more is submitted until you resume.")
    book.run(SHOW)
    another = panel_of(book, SHOW)
    expect(another).to_contain_text("Paused")
    screen.take_all("panel-paused", panel)
    shop.open_for_good()
    assert shop.n_attempts() == 4
    press(another, "Resume")
    for shown in (panel, another):
        expect(shown).to_contain_text(IS_WHOLE)
        expect(shown).to_contain_text("Finished")
    screen.take_all("panel-finished", panel)
    shop.assert_bought_once(n_rows=12)


def test_stop_is_obeyed_and_a_new_kernel_goes_on(shop, notebook, screen):
    """After Stop nothing is submitted; the kernel is restarted, the same cells are run, and nothing is bought twice."""
    book, panel = opened(notebook, shop)
    press(panel, "Stop")
    expect(panel).to_contain_text("Stopped")
    shop.open_for_good()
    screen.take_all("panel-stopped", panel)
    assert shop.n_attempts() == 2
    book.restart()
    book.run(0, START)
    expect(panel_of(book, START)).to_contain_text(IS_WHOLE)
    shop.assert_bought_once(n_rows=12)


def test_kernel_that_is_restarted_under_a_run_loses_nothing(shop, notebook):
    """Tasks that the old kernel had submitted are fetched by the new one."""
    book, _ = opened(notebook, shop)
    book.restart()
    shop.open_for_good()
    assert shop.n_attempts() == 2
    book.run(0, START)
    expect(panel_of(book, START)).to_contain_text(IS_WHOLE)
    shop.assert_bought_once(n_rows=12)


def test_failed_rows_are_reported_and_submitted_again_by_a_click(shop, notebook, screen):
    """The panel says how many failed and why; Retry failed attempts just those, once."""
    shop.gateway.faults.script("create", "fail_moderation", "fail_095")
    _, panel = opened(notebook, shop, n_rows=4)
    shop.open_for_good()
    expect(panel).to_contain_text("Finished")
    expect(panel.locator(".dreamo-errors")).to_contain_text("Risk Not Pass")
    screen.take_all("panel-failed", panel)
    press(panel, "Retry failed (2)")
    expect(panel.locator(".dreamo-legend")).to_contain_text(re.compile(r"4\s*completed"))
    expect(panel).to_contain_text("Finished")
    assert dreamo.load(shop.run_dir)["status"].tolist() == ["completed"] * 4
    assert shop.n_attempts() == 6


def test_finished_panel_is_kept_by_the_notebook_without_its_kernel(shop, notebook, screen):
    """The saved file holds the last state as HTML, and shows it when it is opened again."""
    book, panel = opened(notebook, shop, n_rows=4)
    shop.open_for_good()
    expect(panel).to_contain_text("Finished")
    kept = book.output(START).locator(".dreamo-static")
    expect(kept).to_contain_text("4 of 4 rows settled (100 %)")
    outputs = book.save().cells[START].outputs
    # Beside warnings, and the bar of a machine that takes long to check the pictures.
    (data,) = (output.data for output in outputs if "text/html" in output.get("data", {}))
    assert "application/vnd.jupyter.widget-view+json" not in data
    book.reopen()
    expect(kept.locator("img")).to_have_count(4)
    expect(kept).to_contain_text("4 of 4 rows settled (100 %)")
    screen.take_all("panel-reopened", kept)


def test_buttons_work_while_a_cell_awaits_the_run(shop, notebook):
    """`await live` holds up neither the panel nor its buttons."""
    book, panel = opened(notebook, shop, "done = await live\ndone['status'].value_counts()")
    output = book.start(SHOW)
    press(panel, "Stop")
    book.wait(SHOW)
    expect(panel).to_contain_text("Stopped")
    expect(output).to_contain_text("pending")
    assert shop.n_attempts() == 2
