"""What `validate` and `plan` give, as a notebook shows it."""

from __future__ import annotations

from playwright.sync_api import expect

PROMPT = '<img src=x onerror="window.isHarmed = true"> ' + "a long prompt " * 25


def test_plan_and_problems_are_summed_up_above_their_tables(shop, notebook, screen):
    """What would be bought and what is wrong is said in a line, and the words of the table do no harm."""
    book = notebook(
        shop.setup(n_rows=3, prompts=(PROMPT,)),
        f"dreamo.plan(jobs, {str(shop.run_dir)!r}, unit_cost='0.03')",
        "bad = jobs.assign(width=[512, 5, 512], seed=[1, 2, -7])\ndreamo.validate(bad)",
        "jobs",
    )
    book.run(0, 1, 2, 3)
    expect(book.output(1)).to_contain_text("3 new")
    expect(book.output(2)).to_contain_text("width")
    screen.take_all("plan", book.output(1))
    screen.take_all("problems", book.output(2))
    screen.take_all("jobs", book.output(3))
    assert book.page.evaluate("window.isHarmed") is None
    assert shop.n_attempts() == 0
