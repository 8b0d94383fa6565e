"""Plots of costs, times and failures, in colours that suit the background and are distinct to colour-blind readers."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from unicodedata import east_asian_width

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.appearance import ON_DARK, ON_LIGHT, Theme
from dreamo_batch.errors import UsageError
from dreamo_batch.fonts import Fonts, machine_fonts
from dreamo_batch.importing import load_extra
from dreamo_batch.money import ZERO, dollars, money, total
from dreamo_batch.results.summaries import is_unpriced
from dreamo_batch.text import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from matplotlib.axes import Axes


_SIZE_IN: Final = (7.2, 4.0)
_LABEL_CHARACTERS: Final = 42
_UNDRAWABLE: Final = "\u25a1"
# Share of the figure's width, because the legend starts at the right and line names are at the left.
_LEGEND_SHARE: Final = 0.94
_LEGEND_BELOW_PT: Final = 38  # below the ticks and the axis label
_N_LINES: Final = 25
_BAR: Final = 0.62
_HATCH: Final = "////"
_SPAN_MIN_DAYS: Final = 1 / 86_400


def plot_spend(
    attempts: pd.DataFrame, *, cap: float | str | Decimal | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the money spent over time, what may be billed on top, and the cap.

    Parameters
    ----------
    attempts : pandas.DataFrame
        What `dreamo_batch.attempts` returned.
    cap : float, str or Decimal, optional
        Spending cap in USD, drawn as a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, which becomes pyplot's current one.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not a table of `attempts`, `cap` is not an amount, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import ATTEMPTS_MADE, dtypes
    >>> attempts = pd.DataFrame(columns=list(ATTEMPTS_MADE)).astype(dtypes(ATTEMPTS_MADE))
    >>> plot_spend(attempts).get_title(loc="left")
    'Money spent: $0.00'
    """
    limit = None if cap is None else money(cap)
    if cap is not None and limit is None:
        raise UsageError(f"cap={quoted(cap)} isn't an amount of at least 0 USD.")
    ax, theme, attempts = _prepare(ax, attempts, columns.ATTEMPTS_MADE, "attempts")
    paid = attempts[attempts[columns.COST].notna() & attempts[columns.COMPLETED_AT].notna()]
    held = _doubts(attempts)
    n_unpriced = int(is_unpriced(attempts).sum()) - (len(held) if len(paid) else 0)
    if not len(paid):
        spent = "unknown" if n_unpriced else dollars(ZERO)
        return _show_empty(ax, theme, f"Money spent: {spent}", n_unpriced if len(attempts) else None)
    title = f"Money spent: {dollars(_sum(paid[columns.COST]))}{_n_unknown(n_unpriced)}"
    paid = paid.sort_values(columns.COMPLETED_AT)
    # Start at 0, otherwise a single attempt has no line.
    ends = paid[[columns.SENT_AT, columns.COMPLETED_AT]]
    times = pd.concat([ends.min().nsmallest(1), paid[columns.COMPLETED_AT]])
    spent = pd.concat([pd.Series([0.0]), paid[columns.COST_USD].cumsum()])
    ax.step(times, spent, where="post", color=theme.good, linewidth=2, label="spent")
    ax.fill_between(times, spent, step="post", color=theme.good, alpha=0.18, linewidth=0)
    if doubt := _sum(held):
        label = f"possibly billed: {dollars(doubt)} more"
        end = float(spent.iloc[-1]) + float(doubt)
        ax.axhline(end, color=theme.open, linestyle=":", linewidth=1.5, label=label)
    if limit is not None:
        label = f"cap: {dollars(limit)}"
        ax.axhline(float(limit), color=theme.bad, linestyle="--", linewidth=1.5, label=label)
    ax.set_ylim(bottom=0)
    return _date(_finish(ax, theme, title=title, y="USD", grid="y"), theme)


def plot_costs(costs: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the cost of each group: what was useful, what was wasted, and what may be billed on top.

    Parameters
    ----------
    costs : pandas.DataFrame
        What `dreamo_batch.costs` returned. Only the 25 most expensive groups are drawn; the title counts all.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a figure with ``layout="constrained"`` makes room for long labels. Default: a new one.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not a table of `costs`, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import COSTS
    >>> plot_costs(pd.DataFrame(columns=list(COSTS))).get_title(loc="left")
    'Cost by group'
    """
    ax, theme, costs = _prepare(ax, costs, columns.COSTS, "costs")
    keys = _keys(costs, columns.COSTS | columns.COSTS_PLANNED)
    title = f"Cost by {', '.join(keys) or 'group'}"
    if not len(costs):
        return _show_empty(ax, theme, title)
    shown = costs if keys == [columns.SUBMITTED_AT] else costs.sort_values(columns.SPENT_USD, ascending=False)
    shown = shown.head(_N_LINES)
    n_unpriced = int(costs[columns.N_UNPRICED].sum())
    spent, waste, doubt = (
        pd.to_numeric(shown[name]).fillna(0.0)
        for name in (columns.SPENT_USD, columns.WASTE, columns.POSSIBLY_BILLED)
    )
    bars: dict[str, tuple[pd.Series, dict[str, Any]]] = {
        "useful": (spent - waste, {"color": theme.good}),
        "wasted": (waste, _hatched(ax, theme)),
        "possibly billed": (doubt, {"facecolor": "none", "edgecolor": theme.open, "linestyle": "--"}),
    }
    if not any(lengths.any() for lengths, _ in bars.values()):
        return _show_empty(ax, theme, title, n_unpriced)
    _stack(ax, bars)
    _name_lines(ax, _labels(shown, keys))
    title += _n_shown(len(costs)) + _n_unknown(n_unpriced)
    return _finish(ax, theme, title=title, x="USD", grid="x")


def plot_latency(latency: pd.DataFrame, *, phase: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how long attempts took: the median, the range from 10 % to 90 %, and the extremes.

    Parameters
    ----------
    latency : pandas.DataFrame
        What `dreamo_batch.latency` returned.
    phase : str, optional
        One phase only; default: every phase if there are no groups, else ``"task"``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a figure with ``layout="constrained"`` makes room for long labels. Default: a new one.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not a table of `latency`, the phase is unknown, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import LATENCY
    >>> plot_latency(pd.DataFrame(columns=list(LATENCY))).get_title(loc="left")
    'Seconds by phase'
    """
    if phase is not None and phase not in columns.PHASES:
        raise UsageError(f"There is no phase {phase!r}; the phases are {', '.join(columns.PHASES)}.")
    ax, theme, latency = _prepare(ax, latency, columns.LATENCY, "latency")
    keys = _keys(latency, columns.LATENCY)
    wanted = phase or (columns.TASK if keys else None)
    by = f" by {', '.join(keys)}" if keys else ""
    title = "Seconds by phase" if wanted is None else f"Seconds of {wanted}{by}"
    shown = latency if wanted is None else latency[latency[columns.PHASE] == wanted]
    if not len(shown):
        return _show_empty(ax, theme, title)
    n_all, shown = len(shown), shown.head(_N_LINES)
    _draw_ranges(ax, theme, shown)
    _name_lines(ax, _labels(shown, keys or [columns.PHASE]))
    return _finish(ax, theme, title=title + _n_shown(n_all), x="seconds", grid="x")


def plot_failures(failures: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many attempts and rows failed, by class and code, and which may have been billed.

    Parameters
    ----------
    failures : pandas.DataFrame
        What `dreamo_batch.failures` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a figure with ``layout="constrained"`` makes room for long labels. Default: a new one.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not a table of `failures`, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import FAILURES
    >>> plot_failures(pd.DataFrame(columns=list(FAILURES))).get_title(loc="left")
    'Failures by class'
    """
    ax, theme, failures = _prepare(ax, failures, columns.FAILURES, "failures")
    title = "Failures by class"
    if not len(failures):
        return _show_empty(ax, theme, title)
    labels = failures[columns.ERROR_CLASS] + (" " + failures[columns.ERROR_CODE]).fillna("")
    n = failures[[columns.N_ROWS, columns.ATTEMPTS]].astype(columns.FLOAT).max(axis=1)
    billed = n.where(failures[columns.MAY_HAVE_BEEN_BILLED].astype(bool), 0.0)
    counts = pd.DataFrame({"n": n, "billed": billed}).groupby(labels).sum()
    shown = counts.sort_values("n", ascending=False, kind="stable").head(_N_LINES)
    bars: dict[str, tuple[pd.Series, dict[str, Any]]] = {
        "not billed": (shown["n"] - shown["billed"], {"color": theme.open}),
        "may have been billed": (shown["billed"], _hatched(ax, theme)),
    }
    _stack(ax, bars)
    _name_lines(ax, shown.index.tolist())
    ax.locator_params(axis="x", integer=True)
    ax.set_xlim(0, float(shown["n"].max()) * 1.05)
    return _finish(ax, theme, title=title + _n_shown(len(counts)), x="attempts, or rows never submitted")


def plot_throughput(throughput: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many attempts completed and failed per minute, over time.

    Parameters
    ----------
    throughput : pandas.DataFrame
        What `dreamo_batch.throughput` returned.
    ax : matplotlib.axes.Axes, optional
        Where to draw; default: a new figure, which becomes pyplot's current one.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    UsageError
        If it is not a table of `throughput`, or matplotlib is not installed.

    Examples
    --------
    >>> from dreamo_batch.columns import THROUGHPUT
    >>> plot_throughput(pd.DataFrame(columns=list(THROUGHPUT))).get_title(loc="left")
    'Attempts per minute'
    """
    ax, theme, throughput = _prepare(ax, throughput, columns.THROUGHPUT, "throughput")
    title = "Attempts per minute"
    if not throughput[[columns.COMPLETED, columns.FAILED]].any(axis=None):
        return _show_empty(ax, theme, title)
    at = throughput[columns.AT]
    step = at.diff().iloc[-1] if len(at) > 1 else pd.Timedelta("1s")
    minutes = step / pd.Timedelta("1min")
    completed, failed = (
        throughput[name].astype(columns.FLOAT) / minutes for name in (columns.COMPLETED, columns.FAILED)
    )
    ax.bar(at, completed, width=step, align="edge", color=theme.good, label="completed")
    if failed.any():
        style = _hatched(ax, theme)
        ax.bar(at, failed, bottom=completed, width=step, align="edge", label="failed", **style)
    return _date(_finish(ax, theme, title=title, y="attempts per minute", grid="y"), theme)


def _prepare(
    ax: Axes | None, table: pd.DataFrame, expected: Mapping[str, Any], function: str
) -> tuple[Axes, Theme, pd.DataFrame]:
    """Check the table to draw; return the axes, their colours, and the table with its dtypes."""
    wanted = f"Pass what {function}() returned, such as {function}(run_dir)."
    if absent := [name for name in expected if name not in getattr(table, "columns", ())]:
        raise UsageError(f"The table has no {absent[0]!r} column. {wanted}")
    try:  # after a round trip through CSV, times are text and codes are numbers
        table = table.astype({name: expected[name].dtype for name in expected if name != columns.PHASE})
    except (TypeError, ValueError) as error:
        raise UsageError(f"The table holds other values ({error}). {wanted}") from None
    if ax is None:
        plt = load_extra("matplotlib.pyplot", "Plots need", "plots")
        ax = plt.figure(figsize=_SIZE_IN, layout="constrained").subplots()
    elif not hasattr(ax, "spines"):
        raise UsageError(f"ax={quoted(ax)}: expected one Axes of Matplotlib.")
    theme = _theme(ax)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(theme.open)
    ax.tick_params(colors=theme.ink, which="both", length=3)
    ax.set_axisbelow(True)
    return ax, theme, table


def _theme(ax: Axes) -> Theme:
    """Choose colours by the background: the axes, or the figure if they are transparent, or else a light page."""
    from matplotlib.colors import to_rgba

    behind = [to_rgba(ax.get_facecolor()), to_rgba(ax.figure.get_facecolor())]
    red, green, blue, _ = next((colour for colour in behind if colour[3] > 1 / 2), (1, 1, 1, 1))
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return ON_LIGHT if luminance > 1 / 2 else ON_DARK


def _finish(ax: Axes, theme: Theme, *, title: str, x: str = "", y: str = "", grid: Any = None) -> Axes:
    """Add the title, axis labels, grid lines along one axis, and a legend if there are several colours."""
    if grid is not None:
        ax.grid(axis=grid, color=theme.faint, linewidth=0.6)
    title = _drawable(title)
    style: dict[str, Any] = {"fontfamily": _families(), "parse_math": False}
    ax.set_title(title, color=theme.ink, loc="left", fontsize="medium", **style)
    ax.set_xlabel(x, color=theme.ink)
    ax.set_ylabel(y, color=theme.ink)
    if len(ax.get_legend_handles_labels()[0]) > 1:
        _add_legend(ax, theme)
    return ax


def _add_legend(ax: Axes, theme: Theme) -> None:
    """Put the legend below the axes if the figure's layout makes room, otherwise inside."""
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


def _show_empty(ax: Axes, theme: Theme, title: str, n_unpriced: int | None = None) -> Axes:
    """Say in the axes why there is nothing to draw, and how many attempts have no known cost."""
    why = {None: "nothing to show", 0: "nothing was spent"}.get(n_unpriced, "no costs are known")
    ax.text(0.5, 0.5, why, color=theme.ink, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return _finish(ax, theme, title=title)


def _name_lines(ax: Axes, labels: Sequence[str]) -> None:
    """Label horizontal lines from the top down."""
    names = _distinct([_drawable(label) for label in labels])
    ax.set_yticks(range(len(labels)), names, fontfamily=_families(), parse_math=False)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def _distinct(texts: Sequence[str]) -> list[str]:
    """Shorten texts so that different ones stay different: in the middle, or to the part that differs."""
    labels = {text: _shortened(text, len(text)) for text in texts}
    for label in {label for label, n in Counter(labels.values()).items() if n > 1}:
        alike = [text for text in labels if labels[text] == label]
        start = next(at for at, letters in enumerate(zip(*alike, strict=False)) if len(set(letters)) > 1)
        labels |= {text: _shortened(text, start + _LABEL_CHARACTERS // 4) for text in alike}
    if len(set(labels.values())) < len(labels):  # they differ in several places
        labels = {text: f"{number}. {label}" for number, (text, label) in enumerate(labels.items(), 1)}
    return [labels[text] for text in texts]


def _shortened(text: str, end: int) -> str:
    """Shorten a text to its beginning and a part ending at an index; Chinese characters count as two."""
    n_wide = sum(east_asian_width(letter) in "FW" for letter in text)
    if len(text) + n_wide <= _LABEL_CHARACTERS:
        return text
    n_max = _LABEL_CHARACTERS * len(text) // (len(text) + n_wide)
    n_first = n_max // 2 - 1
    n_last = n_max - n_first - 2
    piece = text[max(n_first, end - n_last) :][:n_last]
    return f"{text[:n_first]}…{piece}" + ("" if text.endswith(piece) else "…")


def _drawable(text: str) -> str:
    """Replace letters that no font has by a box."""
    from matplotlib.font_manager import FontProperties, findfont

    fonts = Fonts(findfont(FontProperties()))
    lacking = fonts.missing_letters(text)
    return "".join(c if c.isprintable() and c not in lacking else _UNDRAWABLE for c in text)


def _families() -> list[str]:
    """Return font families in the order to search: matplotlib's setting, its own font, and those of this machine."""
    import matplotlib as mpl
    from matplotlib import font_manager

    names = [*mpl.rcParams["font.family"], "DejaVu Sans"]
    for file in map(str, machine_fonts()):
        with suppress(OSError, RuntimeError):  # a font that matplotlib can't read
            family = font_manager.get_font(file).family_name
            if family not in {entry.name for entry in font_manager.fontManager.ttflist}:
                font_manager.fontManager.addfont(file)
            names.append(family)
    return names


def _keys(table: pd.DataFrame, own: Mapping[str, Any]) -> list[str]:
    return [name for name in table.columns if name not in own]


def _labels(table: pd.DataFrame, keys: list[str]) -> list[str]:
    rows = table[keys].astype(object).itertuples(index=False, name=None)
    return [", ".join(map(_label, row)) for row in rows] if keys else ["all"] * len(table)


def _label(cell: Any) -> str:
    if pd.isna(cell):
        return "(none)"
    time = cell.strftime("%Y-%m-%d %H:%M") if isinstance(cell, pd.Timestamp) else cell
    return " ".join(str(time).split())


def _n_shown(n: int) -> str:
    return "" if n <= _N_LINES else f" ({_N_LINES} of {n})"


def _n_unknown(n: int) -> str:
    return f" ({counted(n, 'attempt')} of unknown cost)" if n else ""


def _sum(costs: pd.Series) -> Decimal:
    return total(money(cost) or ZERO for cost in costs)


def _doubts(attempts: pd.DataFrame) -> pd.Series:
    """Return the known reservations of attempts that may be billed on top of what was spent."""
    is_doubtful = attempts[columns.MAY_HAVE_BEEN_BILLED].fillna(value=False).astype(bool)
    return attempts.loc[is_doubtful & attempts[columns.COST].isna(), columns.RESERVED].dropna()


def _hatched(ax: Axes, theme: Theme) -> dict[str, Any]:
    return {"color": theme.bad, "hatch": _HATCH, "edgecolor": ax.get_facecolor()}


def _stack(ax: Axes, bars: Mapping[str, tuple[pd.Series, Mapping[str, Any]]]) -> None:
    left: Any = 0.0
    for label, (lengths, style) in bars.items():
        if lengths.any():
            ax.barh(range(len(lengths)), lengths, _BAR, left=left, label=label, **style)
        left = left + lengths.to_numpy()


def _draw_ranges(ax: Axes, theme: Theme, shown: pd.DataFrame) -> None:
    lines = range(len(shown))
    ax.hlines(lines, shown[columns.MIN_S], shown[columns.MAX_S], color=theme.open, linewidth=1, label="all")
    ax.hlines(
        lines, shown[columns.P10_S], shown[columns.P90_S], color=theme.good, linewidth=7, label="10 to 90 %"
    )
    ax.plot(shown[columns.P50_S], lines, "o", color=theme.ink, markersize=5, label="median")
    ax.set_xlim(left=0)


def _date(ax: Axes, theme: Theme) -> Axes:
    """Format times as short as possible; the day is shown at the right."""
    import matplotlib.dates

    dates: Any = matplotlib.dates  # its annotations are incomplete
    low, high = ax.dataLim.intervalx
    if high - low < _SPAN_MIN_DAYS:  # a single attempt, for which matplotlib would show four years
        ax.set_xlim(low - _SPAN_MIN_DAYS / 2, high + _SPAN_MIN_DAYS / 2)
    locator = dates.AutoDateLocator(minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    ax.set_xlabel("UTC", color=theme.ink, loc="left")
    return ax
