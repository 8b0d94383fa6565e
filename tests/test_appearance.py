"""Tables with a word above their rows are plain DataFrames in everything else."""

from __future__ import annotations

import copy
import pickle
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import appearance, columns
from dreamo_batch.engine.plan import Plan
from dreamo_batch.money import money

HOSTILE = "<script>alert(1)</script> \x1b[31m"


def _jobs(**changes) -> pd.DataFrame:
    jobs = dreamo.sweep(
        image="https://example.com/cat.png",
        prompt="a cat",
        seed=range(1, 4),
        size="512x512",
        use_rephraser=False,
    )
    return jobs.assign(**changes)


def _planned(actions: list[str], low: list[float], high: list[float], *, cap=None, spent="0") -> Plan:
    frame = pd.DataFrame(
        {
            columns.ACTION: pd.Categorical(actions, columns.ACTIONS),
            columns.REASON: ["why"] * len(actions),
            columns.JOB_ID: ["0123456789abcdef" * 2] * len(actions),
            columns.COST_LOW_USD: low,
            columns.COST_HIGH_USD: high,
        }
    )
    return Plan.of(frame, cap=money(cap), spent=money(spent))


@pytest.mark.parametrize("make", [dreamo.plan, dreamo.validate], ids=["plan", "validate"])
def test_whatever_is_made_from_a_shown_table_is_a_plain_frame(make):
    """Slices, copies, groups, pickles and joins of it are DataFrames of pandas' own class, equal in what they hold."""
    shown = make(_jobs(prompt=["a cat", "", "a cat"]))
    plain = pd.DataFrame(shown)
    made = [
        shown.copy(),
        copy.copy(shown),
        copy.deepcopy(shown),
        pickle.loads(pickle.dumps(shown)),  # noqa: S301 - our own
        shown[:],
        shown[list(shown.columns)],
        shown.loc[shown.index],
        pd.concat([shown]),
        shown.query("index >= 0"),
    ]
    for frame in made:
        assert type(frame) is pd.DataFrame
        pd.testing.assert_frame_equal(frame, plain)
    assert all(type(part) is pd.DataFrame for _, part in shown.groupby(shown.columns[1]))
    assert shown.to_csv() == plain.to_csv()


def test_shown_table_goes_through_parquet(tmp_path):
    """A plan is written to a file like any table, without what stands above it."""
    shown = dreamo.plan(_jobs(), unit_cost="0.03")
    shown.to_parquet(tmp_path / "plan.parquet")
    back = pd.read_parquet(tmp_path / "plan.parquet")
    assert back[columns.JOB_ID].tolist() == shown[columns.JOB_ID].tolist()


def test_no_problems_are_said_in_words():
    """A table without problems is told how many rows can be submitted, in text and HTML."""
    problems = dreamo.validate(_jobs())
    assert repr(problems) == "No problems: 3 rows can be submitted."
    assert "No problems: 3 rows can be submitted." in problems._repr_html_()
    assert "<table" not in problems._repr_html_()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": ["a", "", None]}, "2 of 3 rows can't be submitted; 1 can. 1 error."),
        (
            {"prompt": ["a", "x" * 301, ""]},
            "1 of 3 rows can't be submitted; 2 can, 1 of them with a warning.",
        ),
        ({"prompt": "x" * 301}, "3 rows can be submitted, with a warning. 1 warning."),
        ({"prompt": ["a", "a", "x" * 301]}, "3 rows can be submitted, 1 of them with a warning. 1 warning."),
        ({"prompt": ["", "", ""]}, "None of the 3 rows can be submitted. 1 error."),
    ],
)
def test_problems_are_counted_by_row(changes, said):
    """The word above the problems tells rows that can be submitted from those that can't."""
    assert repr(dreamo.validate(_jobs(**changes))).startswith(said)


def test_a_bad_file_is_one_problem_with_its_rows(tmp_path):
    """Printed or in a notebook; the table itself keeps a line for each row."""
    problems = dreamo.validate(_jobs(image="gone.png"), base_dir=tmp_path)
    headline, line = repr(problems).splitlines()
    assert headline == "None of the 3 rows can be submitted. 1 error."
    assert line.startswith("error: image-not-found in 3 rows (0, 1, 2; column image, gone.png): ")
    assert line.endswith(f"{problems['message'][0]} {problems['fix'][0]}")
    assert problems._repr_html_().count("<tr>") == 2
    assert len(problems) == 3


def test_a_printed_plan_groups_rows_by_what_happens_to_them():
    """One line per action and reason, and one per kind of warning, each in full."""
    jobs = dreamo.sweep(image="https://example.com/cat.png", prompt=["a" * 301, "b" * 302], seed=[0, 1, 1])
    lines = repr(dreamo.plan(jobs.assign(use_rephraser=False), unit_cost="0.03")).splitlines()
    assert [line.split(":")[1].split(",")[0] for line in lines[1:3]] == [
        " prompt-long in 6 rows (0 to 5)",
        " seed-zero in 2 rows (0",
    ]
    assert [line.split()[:2] for line in lines[3:]] == [["action", "rows"], ["new", "4"], ["duplicate", "2"]]
    assert "$0.12" in lines[4]
    assert "..." not in repr(lines)


def test_problems_are_shown_whole_and_harmless():
    """Messages are not cut, values are, and nothing of a cell becomes markup or reaches a terminal."""
    problems = dreamo.validate(_jobs(size=[HOSTILE * 20, "512x512", "512x512"]))
    html = problems._repr_html_()
    assert "<script>" not in html
    assert "\x1b" not in html + repr(problems)
    assert "&lt;script&gt;" in html
    assert problems["fix"][0] in unescape(html)
    assert HOSTILE * 2 not in html


def test_labels_of_rows_are_escaped():
    """Index labels and column names are anybody's words too."""
    jobs = _jobs()
    jobs.index = pd.MultiIndex.from_tuples([(HOSTILE, n) for n in range(3)], names=[HOSTILE, None])
    html = dreamo.plan(jobs)._repr_html_()
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 4


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (
            _planned(["new", "reuse"], [0.03, 0], [0.03, 0]),
            "1 of 2 rows to buy. 1 new, 1 reuse. Still to pay: $0.03.",
        ),
        (_planned(["new", "new"], [0.1, 0.2], [0.1, 0.2]), "Still to pay: $0.30."),
        (
            _planned(["new"], [0.1], [0.2], cap="5", spent="1"),
            "$0.10 to $0.20. $1.00 was spent here before.",
        ),
        (_planned(["new"], [0.1], [0.2], cap="0.15"), "The cap is $0.15. It may stop at the cap."),
        (_planned(["new"], [0.1], [0.1], cap="0.1"), "$0.10. The cap is $0.10.\n"),
        (
            _planned(["reuse"], [0.0], [0.0], spent="1"),
            "Nothing to buy. 1 reuse. $1.00 was spent here before.",
        ),
        (_planned(["new"], [0.0], [0.0]), "1 of 1 rows to buy. 1 new. Still to pay: nothing."),
        (_planned(["ambiguous"], [0.0], [0.5]), "Still to pay: up to $0.50."),
        (_planned(["new"], [float("nan")], [float("nan")]), "The cost is not known yet"),
        (_planned([], [], []), "Nothing to buy."),
    ],
)
def test_plan_says_what_is_bought_and_what_it_can_cost(plan, said):
    """Counts, the exact range of costs, and the cap stand above the rows."""
    assert said in repr(plan)
    assert said.strip().rsplit(". ", 1)[-1] in plan._repr_html_()


def test_cap_and_spending_come_from_the_run_directory(tmp_path):
    """A plan on a directory knows what was spent there and where its cap is."""
    jobs = dreamo.sweep(image="data/mascot.png", prompt="a fox", seed=range(2), size="512x512")
    with dreamo.LocalGateway(engine="flat") as gateway:
        done = dreamo.run(jobs, tmp_path, gateway=gateway, max_cost="0.5", progress=False)
    spent = round(done["cost_usd"].sum(), 4)
    assert f"${spent} was spent here before. The cap is $0.50." in repr(dreamo.plan(jobs, tmp_path))


def test_long_tables_are_cut_as_pandas_cuts_them():
    """As many rows as pandas' options allow are shown, and the rest is counted."""
    plan = dreamo.plan(_jobs().loc[[0] * 100].reset_index(drop=True))
    assert "… 90 more rows" in plan._repr_html_()
    with pd.option_context("display.max_rows", None):
        assert "more rows" not in plan._repr_html_()
    with pd.option_context("display.max_rows", 4, "display.min_rows", 1):
        assert "… 99 more rows" in plan._repr_html_()


def test_option_of_pandas_turns_html_off():
    """Who wants no HTML tables in notebooks gets none."""
    with pd.option_context("display.notebook_repr_html", False):
        assert dreamo.plan(_jobs())._repr_html_() is None


@pytest.mark.parametrize("make", [dreamo.plan, dreamo.validate], ids=["plan", "validate"])
def test_table_without_its_columns_says_nothing(make):
    """After its columns were taken out in place, it is shown as any table."""
    shown = make(_jobs(prompt=""))
    del shown[columns.ACTION if columns.ACTION in shown else columns.SEVERITY]
    assert repr(shown) == repr(pd.DataFrame(shown))
    assert "dreamo-shown" not in shown._repr_html_()


def test_what_is_said_once_is_not_said_in_every_row():
    """The warning of a seed sweep stands above the plan, and not in each row."""
    plan = dreamo.plan(_jobs(use_rephraser=True))
    html = plan._repr_html_()
    assert "use_rephraser is on in seed sweeps (rows: 3, sweeps: 1)" in html
    assert html.count(">not submitted yet</td>") == 3
    assert "Warning" not in dreamo.plan(_jobs())._repr_html_()


def test_refused_table_shows_its_problems_alike(tmp_path):
    """The problems that an error carries say how many rows can't be submitted."""
    with pytest.raises(dreamo.InvalidTable) as refused:
        dreamo.run(_jobs(prompt=["a", "", "a"]), tmp_path, gateway="local", progress=False)
    assert repr(refused.value.problems).startswith("1 of 3 rows can't be submitted; 2 can.")


def test_a_plan_is_compared_with_the_cap_that_the_run_would_get():
    """plan(max_cost=) tells whether the rows fit, and stores nothing."""
    table = pd.DataFrame({"image": "https://example.com/cat.png", "prompt": ["a", "b"], "seed": 1})
    assert "The cap is $0.05. It may stop at the cap." in repr(
        dreamo.plan(table, max_cost="0.05", unit_cost="0.03")
    )
    assert "It may stop" not in repr(dreamo.plan(table, max_cost="0.06", unit_cost="0.03"))
    assert "cap" not in repr(dreamo.plan(table, max_cost=float("inf"), unit_cost="0.03"))


def test_a_call_of_run_can_be_planned_as_it_stands(tmp_path):
    """What is about the service and the sending changes nothing, but must be what run() takes."""
    table = pd.DataFrame({"image": "https://example.com/cat.png", "prompt": ["a", "b"], "seed": 1})
    called = {"gateway": "local", "max_cost": 5, "unit_cost": "0.03", "max_in_flight": 2, "progress": False}
    planned = dreamo.plan(table, tmp_path / "run", **called)
    assert planned.equals(dreamo.plan(table, unit_cost="0.03"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    refused: list[dict[str, Any]] = [
        {"max_in_flight": 0},
        {"progress": "no"},
        {"client": 3},
        {"gateway": "remote"},
        {"gateway": "local", "base_url": "https://gateway.example"},
        {"base_url": "gateway.example"},
        {"notify": "hooks.example"},
        {"on_event": 3},
        {"not_before": "tonight"},
        {"budget": tmp_path / "team.budget"},
        {"cluster": "many"},
        {"run_dir": tmp_path / "file"},
        {"run_dir": tmp_path / "file" / "run"},
    ]
    for given in refused:
        with pytest.raises((dreamo.UsageError, dreamo.DirectoryError)):
            dreamo.plan(table, **given)
        with pytest.raises((dreamo.UsageError, dreamo.DirectoryError)):
            dreamo.run(
                table, **({"run_dir": tmp_path / "run", "gateway": "local", "progress": False} | given)
            )


def test_amounts_are_not_set_as_formulas():
    """Two amounts with a dollar sign would be one formula to a notebook."""
    shown = _planned(["new"], [0.1], [0.2], cap="0.15")._repr_html_()
    assert "mathjax_ignore" in shown
    assert "tex2jax_ignore" in shown


def test_the_colour_of_a_status_is_written_once():
    """Style sheets and templates take it from the palette."""
    package = Path(dreamo.__file__).parent
    files = [path for kind in ("py", "css", "js", "j2", "toml") for path in package.rglob(f"*.{kind}")]
    texts = {path: path.read_text(encoding="utf-8").lower() for path in files}
    colours = {style.colour for style in appearance.PALETTE.values()}
    found = {path.name for path, text in texts.items() if any(colour in text for colour in colours)}
    assert found == {"appearance.py"}
