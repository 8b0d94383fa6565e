"""How plots look: colours that suit the background they are drawn on, in print and on dark pages alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.engine.budget import ZERO, money, text, total
from dreamo_batch.errors import UsageError
from dreamo_batch.fonts import Lettering

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from matplotlib.axes import Axes


_LABEL_CHARACTERS: Final = 42
_UNDRAWABLE: Final = "\u25a1"
_LEGEND_SHARE: Final = (
    0.94  # of the figure's width; it begins at the right, and lines have their names at the left
)
_LEGEND_BELOW_PT: Final = 38  # under the ticks and what names the axis
_MIDDLE: Final = 0.5
_LUMINANCE: Final = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours, told apart by those who see few, and each with a hatch beside it where areas meet."""

    ink: str
    faint: str
    good: str
    bad: str
    open: str


ON_LIGHT: Final = Theme(ink="#222222", faint="#d5d5d5", good="#0072b2", bad="#d55e00", open="#767676")
_ON_DARK: Final = Theme(ink="#ececec", faint="#4a4a4a", good="#56b4e9", bad="#f0a04b", open="#a8a8a8")


def prepare(ax: Axes | None) -> tuple[Axes, Theme]:
    """Give axes to draw on, and the colours for their background."""
    drawn = _fresh() if ax is None else ax
    theme = _theme(drawn)
    for side in ("top", "right"):
        drawn.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        drawn.spines[side].set_color(theme.open)
    drawn.tick_params(colors=theme.ink, which="both", length=3)
    drawn.set_axisbelow(True)
    return drawn, theme


def finish(ax: Axes, theme: Theme, *, title: str, x: str = "", y: str = "") -> Axes:
    """Name the plot and its axes, and show what the colours mean where there are several."""
    title = drawable(title)
    style: dict[str, Any] = {"fontfamily": _families(title), "parse_math": False}
    ax.set_title(title, color=theme.ink, loc="left", fontsize="medium", **style)
    ax.set_xlabel(x, color=theme.ink)
    ax.set_ylabel(y, color=theme.ink)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        _explain(ax, theme)
    return ax


def _explain(ax: Axes, theme: Theme) -> None:
    """Say what the colours mean: below the axes where the figure makes room for it, else within them."""
    style: dict[str, Any] = {"labelcolor": theme.ink, "fontsize": "small"}
    figure: Any = ax.get_figure(root=True)
    if figure.get_layout_engine() is None:
        ax.legend(loc="best", framealpha=0.7, facecolor=ax.get_facecolor(), edgecolor="none", **style)
        return
    from matplotlib.transforms import ScaledTranslation

    lower = ax.transAxes + ScaledTranslation(0, -_LEGEND_BELOW_PT / 72, figure.dpi_scale_trans)
    place: dict[str, Any] = {"loc": "upper right", "bbox_to_anchor": (1, 0), "bbox_transform": lower}
    for n_columns in range(len(ax.get_legend_handles_labels()[0]), 0, -1):
        legend = ax.legend(frameon=False, ncols=n_columns, **place, **style)
        if legend.get_window_extent().width <= _LEGEND_SHARE * figure.bbox.width:
            return


def say_nothing(ax: Axes, theme: Theme, title: str) -> Axes:
    """Say that there is nothing to draw, rather than show empty axes."""
    ax.text(0.5, 0.5, "nothing to show", color=theme.ink, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return finish(ax, theme, title=title)


def name_lines(ax: Axes, labels: Sequence[Any]) -> None:
    """Label horizontal lines from the top down."""
    ax.set_yticks(range(len(labels)), [shortened(label) for label in labels], parse_math=False)
    for tick in ax.get_yticklabels():
        tick.set_fontfamily(_families(tick.get_text()))
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def shortened(label: object) -> str:
    """Make one short line of a label, of characters that can be drawn."""
    text = "(none)" if label is None or label != label else " ".join(str(label).split())  # noqa: PLR0124 - NaN
    text = drawable(text)
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 3] + "..."


def drawable(text: str) -> str:
    """Put a box for every letter that no font here has."""
    known = [_charmap(file) for file in _files()]
    box = _UNDRAWABLE if ord(_UNDRAWABLE) in known[0] else "?"
    return "".join(c if c.isprintable() and any(ord(c) in one for one in known) else box for c in text)


def _families(text: str) -> list[str]:
    """Name the fonts that have the letters of a text: matplotlib's choice, then those of this machine."""
    import matplotlib as mpl
    from matplotlib import font_manager

    first, *others = _files()
    letters = {ord(letter) for letter in text} - _charmap(first)
    names = list(mpl.rcParams["font.family"])
    for file in others:
        found = letters & _charmap(file)
        if found:
            font_manager.fontManager.addfont(file)
            names.append(font_manager.get_font(file).family_name)
            letters -= found
    return names


def _files() -> list[str]:
    from matplotlib.font_manager import FontProperties, findfont

    return [findfont(FontProperties()), *map(str, Lettering().files)]


@functools.lru_cache(maxsize=64)
def _charmap(file: str) -> frozenset[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # a font that matplotlib can't read has no letters for it
        return frozenset()


def _fresh() -> Axes:
    try:
        from dreamo_batch.results.figure import Sheet
    except ImportError as error:
        raise UsageError(f"Plots need matplotlib ({error}): pip install 'dreamo-batch[plots]'.") from None
    import matplotlib.pyplot as plt

    return plt.figure(FigureClass=Sheet).subplots()


def _theme(ax: Axes) -> Theme:
    """Choose by what is behind the axes; what is transparent shows the figure, and that a page taken as light."""
    from matplotlib.colors import to_rgba

    colours = [to_rgba(ax.get_facecolor()), to_rgba(ax.figure.get_facecolor())]
    behind = next((colour for colour in colours if colour[3] > _MIDDLE), None)
    if behind is None:
        return ON_LIGHT
    luminance = sum(weight * part for weight, part in zip(_LUMINANCE, behind, strict=False))
    return ON_LIGHT if luminance > _MIDDLE else _ON_DARK


_N_LINES: Final = 25
_BAR: Final = 0.62
_HATCH: Final = "////"
_SPAN_MIN_DAYS: Final = 1 / 86_400


def plot_spend(
    attempts: pd.DataFrame, *, cap: float | str | Decimal | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the money spent over time, what may be billed beside it, and the cap.

    Parameters
    ----------
    attempts : pandas.DataFrame
        As from `dreamo_batch.attempts`.
    cap : float, str or Decimal, optional
        USD that the run was not to pass.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, pyplot's current one from then on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not what `attempts` gives, `cap` is no amount, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import ATTEMPTS_MADE, dtypes
    >>> attempts = pd.DataFrame(columns=list(ATTEMPTS_MADE)).astype(dtypes(ATTEMPTS_MADE))
    >>> plot_spend(attempts).get_title(loc="left")
    'Money spent: USD 0'
    """
    _check(attempts, columns.ATTEMPTS_MADE, "attempts")
    limit = None if cap is None else money(cap)
    if cap is not None and limit is None:
        raise UsageError(f"cap={cap!r} is no amount of at least 0 USD.")
    ax, look = prepare(ax)
    paid = attempts[attempts[columns.COST].notna() & attempts[columns.COMPLETED_AT].notna()]
    title = f"Money spent: USD {text(_sum(paid[columns.COST]))}"
    if not len(paid):
        return say_nothing(ax, look, title)
    paid = paid.sort_values(columns.COMPLETED_AT)
    times, spent = paid[columns.COMPLETED_AT], paid[columns.COST_USD].cumsum()
    ax.step(times, spent, where="post", color=look.good, linewidth=2, label="spent")
    ax.fill_between(times, spent, step="post", color=look.good, alpha=0.18, linewidth=0)
    _draw_doubt(ax, look, attempts, float(spent.iloc[-1]))
    if limit is not None:
        ax.axhline(
            float(limit), color=look.bad, linestyle="--", linewidth=1.5, label=f"cap: USD {text(limit)}"
        )
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", color=look.faint, linewidth=0.6)
    _date(ax)
    return finish(ax, look, title=title, x="time (UTC)", y="USD")


def plot_costs(costs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the cost of each group: what was of use, what was wasted, and what may be billed beside it.

    Parameters
    ----------
    costs : pandas.DataFrame
        As from `dreamo_batch.costs`; groups beyond the 25 most expensive are left out, and counted in the title.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, pyplot's current one from then on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not what `costs` gives, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import COSTS
    >>> plot_costs(pd.DataFrame(columns=list(COSTS))).get_title(loc="left")
    'Cost by group'
    """
    _check(costs, columns.COSTS, "costs")
    ax, look = prepare(ax)
    keys = _keys(costs, columns.COSTS | columns.COSTS_PLANNED)
    title = f"Cost by {', '.join(keys) or 'group'}"
    if not len(costs):
        return say_nothing(ax, look, title)
    is_timed = keys == [columns.SUBMITTED_AT]
    shown = (
        costs.head(_N_LINES)
        if is_timed
        else costs.sort_values(columns.SPENT_USD, ascending=False).head(_N_LINES)
    )
    waste, doubt = (
        pd.to_numeric(shown[name]).fillna(0.0) for name in (columns.WASTE, columns.POSSIBLY_BILLED)
    )
    spent = shown[columns.SPENT_USD].astype(columns.FLOAT).fillna(0.0)
    bars: dict[str, tuple[pd.Series, dict[str, Any]]] = {
        "of use": (spent - waste, {"color": look.good}),
        "wasted": (waste, {"color": look.bad, "hatch": _HATCH, "edgecolor": ax.get_facecolor()}),
        "possibly billed": (doubt, {"facecolor": "none", "edgecolor": look.open, "linestyle": "--"}),
    }
    _stack(ax, bars)
    name_lines(ax, _labels(shown, keys))
    ax.grid(axis="x", color=look.faint, linewidth=0.6)
    return finish(ax, look, title=title + _left_out(len(costs)), x="USD")


def plot_latency(latency: pd.DataFrame, *, phase: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how long attempts took: the median, from where 10 % to where 90 % were done, and the extremes.

    Parameters
    ----------
    latency : pandas.DataFrame
        As from `dreamo_batch.latency`.
    phase : str, optional
        One phase only; default: every phase of the whole, and ``"task"`` where there are groups.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, pyplot's current one from then on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not what `latency` gives, there is no such phase, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import LATENCY
    >>> plot_latency(pd.DataFrame(columns=list(LATENCY))).get_title(loc="left")
    'Seconds by phase'
    """
    _check(latency, columns.LATENCY, "latency")
    if phase is not None and phase not in columns.PHASES:
        raise UsageError(f"There is no phase {phase!r}; there are {', '.join(columns.PHASES)}.")
    ax, look = prepare(ax)
    keys = _keys(latency, columns.LATENCY)
    wanted = phase or (columns.TASK if keys else None)
    title = (
        f"Seconds by phase{''.join(f', {key}' for key in keys)}"
        if wanted is None
        else (f"Seconds of {wanted}" + (f" by {', '.join(keys)}" if keys else ""))
    )
    shown = latency if wanted is None else latency[latency[columns.PHASE] == wanted]
    if not len(shown):
        return say_nothing(ax, look, title)
    n_all, shown = len(shown), shown.head(_N_LINES)
    _draw_ranges(ax, look, shown)
    name_lines(ax, _labels(shown, keys or [columns.PHASE]))
    ax.grid(axis="x", color=look.faint, linewidth=0.6)
    return finish(ax, look, title=title + _left_out(n_all), x="seconds")


def plot_failures(failures: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many attempts and rows failed, by class and code, and which may have been billed.

    Parameters
    ----------
    failures : pandas.DataFrame
        As from `dreamo_batch.failures`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, pyplot's current one from then on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not what `failures` gives, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import FAILURES
    >>> plot_failures(pd.DataFrame(columns=list(FAILURES))).get_title(loc="left")
    'Failures by class'
    """
    _check(failures, columns.FAILURES, "failures")
    ax, look = prepare(ax)
    title = "Failures by class"
    if not len(failures):
        return say_nothing(ax, look, title)
    labels = failures[columns.ERROR_CLASS] + (" " + failures[columns.ERROR_CODE]).fillna("")
    n = failures[[columns.N_ROWS, columns.ATTEMPTS]].astype(columns.FLOAT).max(axis=1)
    billed = n.where(failures[columns.MAY_HAVE_BEEN_BILLED].astype(bool), 0.0)
    counts = pd.DataFrame({"n": n, "billed": billed}).groupby(labels).sum()
    counts = counts.sort_values("n", ascending=False, kind="stable")
    shown = counts.head(_N_LINES)
    style = {"color": look.bad, "hatch": _HATCH, "edgecolor": ax.get_facecolor()}
    _stack(
        ax,
        {
            "not billed": (shown["n"] - shown["billed"], {"color": look.open}),
            "may have been billed": (shown["billed"], style),
        },
    )
    name_lines(ax, shown.index.tolist())
    _count_in_ones(ax, float(shown["n"].max()))
    return finish(ax, look, title=title + _left_out(len(counts)), x="attempts, or rows never submitted")


def plot_throughput(throughput: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many attempts a minute were seen completed, and failed, over time.

    Parameters
    ----------
    throughput : pandas.DataFrame
        As from `dreamo_batch.throughput`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, pyplot's current one from then on.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not what `throughput` gives, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import THROUGHPUT
    >>> plot_throughput(pd.DataFrame(columns=list(THROUGHPUT))).get_title(loc="left")
    'Attempts a minute'
    """
    _check(throughput, columns.THROUGHPUT, "throughput")
    ax, look = prepare(ax)
    title = "Attempts a minute"
    if not len(throughput):
        return say_nothing(ax, look, title)
    at = throughput[columns.AT]
    step = at.diff().iloc[-1] if len(at) > 1 else pd.Timedelta("1s")
    a_minute = step / pd.Timedelta("1min")
    completed, failed = (
        throughput[n].astype(columns.FLOAT) / a_minute for n in (columns.COMPLETED, columns.FAILED)
    )
    ax.bar(at, completed, width=step, align="edge", color=look.good, label="completed")
    if failed.any():
        style: dict[str, Any] = {"color": look.bad, "hatch": _HATCH, "edgecolor": ax.get_facecolor()}
        ax.bar(at, failed, bottom=completed, width=step, align="edge", label="failed", **style)
    ax.grid(axis="y", color=look.faint, linewidth=0.6)
    _date(ax)
    return finish(ax, look, title=title, x="time (UTC)", y="attempts a minute")


def _check(table: pd.DataFrame, expected: Mapping[str, Any], function: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise UsageError(
            f"A DataFrame was expected, not a {type(table).__name__}; give what {function}() gave back."
        )
    absent = [name for name in expected if name not in table.columns]
    if absent:
        raise UsageError(f"There is no column {absent[0]!r}; give what {function}() gave back.")


def _keys(table: pd.DataFrame, own: Mapping[str, Any]) -> list[str]:
    return [name for name in table.columns if name not in own]


def _labels(table: pd.DataFrame, keys: list[str]) -> list[str]:
    if not keys:
        return ["all"] * len(table)
    cells = table[keys].astype(object).itertuples(index=False, name=None)
    return [
        ", ".join(shortened(None if pd.isna(cell) else _short_time(cell)) for cell in row) for row in cells
    ]


def _short_time(cell: Any) -> Any:
    return cell.strftime("%Y-%m-%d %H:%M") if isinstance(cell, pd.Timestamp) else cell


def _left_out(n: int) -> str:
    return "" if n <= _N_LINES else f" ({_N_LINES} of {n})"


def _sum(costs: pd.Series) -> Decimal:
    return total(money(cost) or ZERO for cost in costs)


def _draw_doubt(ax: Axes, look: Theme, attempts: pd.DataFrame, spent: float) -> None:
    """Draw what attempts may cost that were possibly billed, on top of what was spent."""
    is_doubtful = attempts[columns.MAY_HAVE_BEEN_BILLED].fillna(value=False).astype(bool)
    held = _sum(attempts.loc[is_doubtful & attempts[columns.COST].isna(), columns.RESERVED].dropna())
    if held:
        label = f"with what is possibly billed: USD {text(held)} more"
        ax.axhline(spent + float(held), color=look.open, linestyle=":", linewidth=1.5, label=label)


def _stack(ax: Axes, bars: Mapping[str, tuple[pd.Series, Mapping[str, Any]]]) -> None:
    left: Any = 0.0
    for label, (lengths, style) in bars.items():
        if lengths.any():
            ax.barh(range(len(lengths)), lengths, _BAR, left=left, label=label, **style)
        left = left + lengths.to_numpy()


def _draw_ranges(ax: Axes, look: Theme, shown: pd.DataFrame) -> None:
    lines = range(len(shown))
    ax.hlines(lines, shown[columns.MIN_S], shown[columns.MAX_S], color=look.open, linewidth=1, label="all")
    ax.hlines(
        lines, shown[columns.P10_S], shown[columns.P90_S], color=look.good, linewidth=7, label="10 to 90 %"
    )
    ax.plot(shown[columns.P50_S], lines, "o", color=look.ink, markersize=5, label="median")
    ax.set_xlim(left=0)


def _count_in_ones(ax: Axes, highest: float) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim(0, highest * 1.05)


def _date(ax: Axes) -> None:
    """Write times as short as they can be told apart."""
    import matplotlib.dates

    dates: Any = matplotlib.dates  # whose annotations are incomplete
    low, high = ax.dataLim.intervalx
    if high - low < _SPAN_MIN_DAYS:  # one attempt alone, for which matplotlib shows four years
        ax.set_xlim(low - _SPAN_MIN_DAYS / 2, high + _SPAN_MIN_DAYS / 2)
    locator = dates.AutoDateLocator(maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
