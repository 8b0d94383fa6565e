"""Plots draw what they are given, legibly on light and dark, and work with pyplot."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from functools import cache
from unittest.mock import Mock

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import dreamo_batch as dreamo
from dreamo_batch import columns, fonts, importing
from dreamo_batch.errors import UsageError
from dreamo_batch.results import plots
from tests.chinese_fonts import chinese_fonts
from tests.histories import NOON, ambiguous, completed, failed, history_of

PROMPTS = ("a fox", "an owl for $5 or $6", "海边的小屋", "a castle " * 20, "one_two^three\n{four}")


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


def history(n=30):
    """Rows of every kind, with prompts that are hard to write on a plot."""
    makers = [completed, completed, completed, failed, ambiguous]
    attempts = [makers[i % 5](f"j{i}", sent_at=NOON + i) for i in range(n)]
    attempts += [failed("x", cost="0.01", error_class="result_error", may_have_been_billed=True)]
    return history_of(
        [o.job_id for o in attempts], attempts, prompt=[PROMPTS[i % 7 % 5] for i in range(n + 1)]
    )


DRAWN = {
    plots.plot_spend: dreamo.attempts,
    plots.plot_costs: lambda made: dreamo.costs(made, "prompt"),
    plots.plot_latency: lambda made: dreamo.latency(made, "prompt"),
    plots.plot_failures: dreamo.failures,
    plots.plot_throughput: dreamo.throughput,
}
TABLES = {
    plots.plot_spend: columns.ATTEMPTS_MADE,
    plots.plot_costs: columns.COSTS,
    plots.plot_latency: columns.LATENCY,
    plots.plot_failures: columns.FAILURES,
    plots.plot_throughput: columns.THROUGHPUT,
}


@pytest.mark.no_cover
@pytest.mark.parametrize("background", ["default", "dark_background"])
@pytest.mark.parametrize("plot", DRAWN)
def test_every_plot_can_be_drawn_on_light_and_dark(plot, background):
    """Whatever the prompts, it draws without a warning, in ink that stands out from the background."""
    with style.context(background):
        ax = plot(DRAWN[plot](history()))
        ax.figure.draw_without_rendering()
        expected = "#222222" if background == "default" else "#ececec"
    assert {to_hex(text.get_color()) for text in (ax.xaxis.label, ax._left_title)} == {expected}


@pytest.mark.no_cover
@pytest.mark.parametrize("plot", DRAWN)
def test_tables_that_were_stored_or_converted_are_drawn(plot):
    """From CSV, or with other dtypes, it is the same drawing; other values are no such table."""
    table = DRAWN[plot](history()).reset_index(drop=True)
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    drawn = [
        len(plot(one).get_children()) for one in (table, read, table.astype(object), table.convert_dtypes())
    ]
    assert len(set(drawn)) == 1
    with pytest.raises(UsageError, match="Pass what"):
        plot(table.assign(completed="many", completed_at="noon", attempts="many"))


@pytest.mark.parametrize("plot", DRAWN)
def test_axes_given_are_the_axes_drawn_on(plot):
    """Plots go side by side into a figure of the user's, and none is made beside it."""
    ax = Figure().subplots()
    assert plot(DRAWN[plot](history()), ax=ax) is ax
    assert ax.get_title(loc="left")
    with pytest.raises(UsageError, match="expected one Axes of Matplotlib"):
        plot(DRAWN[plot](history()), ax=Figure().subplots(2))


@pytest.mark.parametrize("plot", TABLES)
def test_a_run_directory_is_no_table(plot):
    """Its functions take one; plots take what they give."""
    with pytest.raises(UsageError, match=r"The table has no .* column\. Pass what"):
        plot("runs/first")


@pytest.mark.parametrize("plot", TABLES)
def test_nothing_to_draw_is_said(plot):
    """An empty table is no error, and not an empty frame either; a wrong one is an error."""
    ax = plot(pd.DataFrame(columns=list(TABLES[plot])).astype(columns.dtypes(TABLES[plot])))
    assert [text.get_text() for text in ax.texts] == ["nothing to show"]
    with pytest.raises(UsageError, match="Pass what"):
        plot(pd.DataFrame({"prompt": []}))


def test_one_attempt_is_enough_for_a_line_and_none_that_ended_for_no_axes():
    """A first run of one picture shows what it cost; one whose attempts are all held has no pace to show."""
    one = dreamo.attempts(history_of(["a"], [completed("a", cost="0.02")]))
    assert plots.plot_spend(one).lines[0].get_ydata().tolist() == [0.0, 0.02]
    held = dreamo.throughput(history_of(["a", "b"], [ambiguous("a"), ambiguous("b", sent_at=NOON + 5)]))
    ax = plots.plot_throughput(held)
    assert [text.get_text() for text in ax.texts] == ["nothing to show"]


def unpriced(job_id):
    return replace(completed(job_id), cost=None)


@pytest.mark.parametrize(
    ("attempts", "title", "said"),
    [
        ([unpriced("a"), unpriced("b")], "Money spent: unknown", "no costs are known"),
        ([failed("a"), failed("b")], "Money spent: $0.00", "nothing was spent"),
    ],
)
def test_axes_without_a_cost_say_why(attempts, title, said):
    """Names beside empty axes looked as if every group had cost nothing."""
    made = history_of(["a", "b"], attempts)
    spend, costs = plots.plot_spend(dreamo.attempts(made)), plots.plot_costs(dreamo.costs(made, "job_id"))
    assert spend.get_title(loc="left") == title
    assert [[text.get_text() for text in ax.texts] for ax in (spend, costs)] == [[said], [said]]


def test_costs_known_in_part_are_drawn_and_the_others_counted():
    """The bars alone look as if they were all of it."""
    made = history_of(["a", "b"], [completed("a"), unpriced("b")])
    titles = [
        ax.get_title(loc="left")
        for ax in (plots.plot_spend(dreamo.attempts(made)), plots.plot_costs(dreamo.costs(made)))
    ]
    assert titles == [
        f"{what} (1 attempt of unknown cost)" for what in ("Money spent: $0.0286", "Cost by group")
    ]


def test_what_may_be_billed_hides_no_other_unknown_cost_of_its_group():
    """Only the reservation of one of the two is a bar."""
    costs = dreamo.costs(history_of(["a", "b", "c"], [completed("a"), ambiguous("b"), unpriced("c")]))
    assert plots.plot_costs(costs).get_title(loc="left") == "Cost by group (2 attempts of unknown cost)"


def test_spend_ends_at_the_sum_and_shows_the_cap():
    """The title is exact; the cap and what may be billed on top are lines with names."""
    made = dreamo.attempts(history_of(["a", "b", "c"], [completed("a"), completed("b"), ambiguous("c")]))
    ax = plots.plot_spend(made, cap="0.5")
    assert ax.get_title(loc="left") == "Money spent: $0.0572"
    assert ax.get_xlabel() == "UTC"
    assert ax.xaxis.label.get_horizontalalignment() == "left"  # apart from the day
    heights = [np.asarray(line.get_ydata(), dtype=float)[-1] for line in ax.lines]
    assert heights == pytest.approx([0.0572, 0.0872, 0.5])
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["spent", "possibly billed: $0.03 more", "cap: $0.50"]
    with pytest.raises(UsageError, match="isn't an amount"):
        plots.plot_spend(made, cap="lots")


def test_costs_are_stacked_by_use():
    """Used, wasted and possibly billed parts of a bar add up to the group's money."""
    attempts = [completed("a"), failed("b", cost="0.01"), ambiguous("c")]
    ax = plots.plot_costs(dreamo.costs(history_of(["a", "b", "c"], attempts)))
    assert [patch.get_width() for patch in ax.patches] == pytest.approx([0.0286, 0.01, 0.03])
    assert [patch.get_x() for patch in ax.patches] == pytest.approx([0.0, 0.0286, 0.0386])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["all"]


def test_costs_over_time_stay_in_order():
    """Buckets of time are not sorted by money."""
    attempts = [completed(f"j{i}", sent_at=NOON + 3600 * i, cost=f"0.0{i + 1}") for i in range(3)]
    ax = plots.plot_costs(dreamo.costs(history_of([o.job_id for o in attempts], attempts), "1h"))
    assert [label.get_text()[-5:] for label in ax.get_yticklabels()] == ["12:00", "13:00", "14:00"]


def test_many_groups_are_cut_and_counted():
    """A plot with a thousand bars says nothing."""
    attempts = [completed(f"j{i}") for i in range(40)]
    made = history_of([o.job_id for o in attempts], attempts)
    assert plots.plot_costs(dreamo.costs(made, "job_id")).get_title(loc="left") == "Cost by job_id (25 of 40)"
    ax = plots.plot_latency(dreamo.latency(made, "job_id"))
    assert ax.get_title(loc="left") == "Seconds of task by job_id (25 of 40)"


@pytest.mark.parametrize(
    "prompts",
    [
        ["a fox in the snow, " * 3 + "at dawn", "a fox in the snow, " * 3 + "at dusk"],
        [
            "a fox in the snow, " * 3 + place + ", in oils" * 9
            for place in ("by a lake", "by a river", "at sea")
        ],
        ["海边的小屋" * 12 + "早晨", "海边的小屋" * 12 + "晚上"],
        [f"{'a fox ' * 9}{one}{' in snow' * 9}{other}{' at sea' * 9}" for one in "ab" for other in "cd"],
    ],
)
def test_long_labels_stay_distinct(prompts):
    """Whether they differ at the end, in the middle, or in several places."""
    attempts = [completed(f"j{i}") for i in range(len(prompts))]
    made = history_of([one.job_id for one in attempts], attempts, prompt=prompts)
    labels = [label.get_text() for label in plots.plot_costs(dreamo.costs(made, "prompt")).get_yticklabels()]
    assert len(set(labels)) == len(prompts)
    assert max(map(len, labels)) <= 46


def test_latency_shows_phases_or_groups():
    """The whole is drawn phase by phase, groups by the task, and one phase on request."""
    whole = dreamo.latency(history_of(["a"], [completed("a")]))
    labels = [label.get_text() for label in plots.plot_latency(whole).get_yticklabels()]
    assert labels == ["create", "task", "download"]
    assert plots.plot_latency(whole, phase="create").get_title(loc="left") == "Seconds of create"
    with pytest.raises(UsageError, match="no phase 'nap'"):
        plots.plot_latency(whole, phase="nap")


def test_failures_tell_what_may_be_billed():
    """Bars are attempts, or rows where there was none, and doubt is hatched."""
    attempts = [failed("a"), failed("b"), ambiguous("c")]
    ax = plots.plot_failures(dreamo.failures(history_of(["a", "b", "c", None], attempts)))
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["generation_error 003011095", "invalid prompt_missing", "no_answer"]
    widths = [(patch.get_width(), bool(patch.get_hatch())) for patch in ax.patches if patch.get_width()]
    assert widths == [(2.0, False), (1.0, False), (1.0, True)]


def test_throughput_of_a_single_moment_is_drawn():
    """One bucket is a bar all the same."""
    attempts = [completed("a", completed_at=NOON + 0.1, sent_at=NOON)]
    ax = plots.plot_throughput(dreamo.throughput(history_of(["a"], attempts), every="1h"))
    assert [patch.get_height() for patch in ax.patches] == [60.0]


@pytest.mark.parametrize("span_s", [20, 254, 3 * 3600, 11_680, 86_400 * 4.5])
def test_times_have_few_ticks_whatever_the_run_took(span_s):
    """Also where matplotlib warns that it finds no interval, as it did for runs of three to five minutes."""
    attempts = [completed("a", sent_at=NOON), completed("b", completed_at=NOON + span_s)]
    ax = plots.plot_spend(dreamo.attempts(history_of(["a", "b"], attempts)))
    assert 2 <= len(ax.get_xticks()) <= 10


def test_transparent_axes_take_the_ink_of_what_is_behind():
    """Where nothing is behind, the page is taken as light."""
    costs = table_of(plots.plot_costs)
    for behind, ink in (("#101010", "#ececec"), ("none", "#222222")):
        with mpl.rc_context({"axes.facecolor": "none", "figure.facecolor": behind}):
            assert to_hex(plots.plot_costs(costs).xaxis.label.get_color()) == ink


def test_without_matplotlib_the_way_out_is_said(monkeypatch):
    """A missing extra is a clear error, not an ImportError from deep inside."""
    costs = table_of(plots.plot_costs)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(UsageError, match=r"dreamo-batch\[plots\]"):
        plots.plot_costs(costs)
    monkeypatch.setattr(importing, "load_module", Mock(side_effect=ValueError("Key backend: 'none such'")))
    with pytest.raises(UsageError, match="Plots need matplotlib, which can't be loaded here: Key backend"):
        plots.plot_costs(costs)


def test_importing_the_package_loads_no_matplotlib():
    """Plots load it when they are drawn."""
    code = "import sys, dreamo_batch as dreamo; dreamo.costs; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.no_cover
@pytest.mark.parametrize("plot", DRAWN)
def test_a_plot_is_the_current_figure_of_pyplot(plot, tmp_path):
    """So that plt.savefig saves it, plt.show shows it, and the next one is another."""
    first, second = plot(DRAWN[plot](history())), plot(DRAWN[plot](history()))
    assert first.figure is not second.figure
    assert plt.gca() is second
    plt.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@cache
def table_of(plot):
    """Return what it draws of a history of rows of every kind."""
    return DRAWN[plot](history())


@pytest.mark.no_cover
@pytest.mark.parametrize("size", [(7.2, 4.0), (4.5, 3.0), (12.0, 3.0)])
@pytest.mark.parametrize("layout", [None, "constrained", "tight"])
@pytest.mark.parametrize("plot", DRAWN)
def test_legends_are_not_cut_off(plot, layout, size):
    """Whatever the size of the figure, and whether or not it makes room for what stands beside its axes."""
    figure = Figure(figsize=size, layout=layout)
    ax = plot(table_of(plot), ax=figure.subplots())
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    box, whole = legend.get_window_extent(), figure.bbox
    is_inside = box.x0 >= whole.x0 - 1 and box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1
    assert is_inside
    assert (
        box.x1 <= whole.x1 + 1 or size[0] < 4
    )  # what is longer than a small figure is wide can't be seen whole


def test_chinese_is_drawn_where_there_is_a_font():
    """In labels, and in the title where a column is named so."""
    chinese_fonts()
    made = history_of(["a", "b"], [completed("a"), completed("b")], 场景=["海边的小屋", "a fox"])
    ax = plots.plot_costs(dreamo.costs(made, "场景"))
    assert sorted(label.get_text() for label in ax.get_yticklabels()) == ["a fox", "海边的小屋"]
    assert ax.get_title(loc="left") == "Cost by 场景"
    ax.figure.draw_without_rendering()  # a letter without a font would be a warning


def test_letters_without_a_font_are_boxes(monkeypatch, caplog):
    """Said once, rather than a warning for each."""
    monkeypatch.setattr(fonts, "machine_fonts", tuple)
    monkeypatch.setattr(plots, "machine_fonts", tuple)
    monkeypatch.setattr(fonts, "_reported", set())
    plots.plot_costs(dreamo.costs(history_of(["a"], [completed("a")], scene=["海 b"]), "scene"))
    ax = plots.plot_costs(dreamo.costs(history_of(["a"], [completed("a")], scene=["海 a"]), "scene"))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["\u25a1 a"]
    (said,) = caplog.messages
    assert said.startswith("No font found here has 海; labels leave them out.")
    ax.figure.draw_without_rendering()
