"""The plots of a report, as drawings inside the page that follow its light or dark look."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.execution.budget import money, text
from dreamo_batch.results import plots, theme
from dreamo_batch.results.latency import count_throughput, summarise_latency

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from dreamo_batch.results.reporting.facts import Facts

_SIZE_IN: Final = (5.4, 3.4)
_CAP_TIMES_MAX: Final = 8
_HEAD: Final = re.compile(
    r"^.*?(?=<svg)|<metadata>.*?</metadata>|<style.*?</style>| xmlns(?::xlink)?=\"[^\"]*\"", re.DOTALL
)
_SIZE: Final = re.compile(r"(<svg[^>]*?) (?:width=\"[^\"]*\" ?|height=\"[^\"]*\" ?)+")
_ID: Final = re.compile(r"(\bid=\"|href=\"#|url\(#)")
_ACROSS: Final = ("xlink:href", "href")


def charts(facts: Facts, *, prefix: str = "") -> dict[str, str]:
    """Draw what is worth a picture: money over time, latency by phase, and throughput.

    Parameters
    ----------
    facts : Facts
        The run.
    prefix : str
        What names within the drawings begin with, so that they differ from those of other runs on the page.

    Returns
    -------
    dict of str to str
        Drawings (SVG, markup that is safe: its words are those of this package, numbers and times).

    Raises
    ------
    UsageError
        If matplotlib is not installed.
    """
    if facts.orders[columns.COMPLETED_AT].isna().all():
        return {}
    cap = _visible_cap(facts)
    draw: dict[str, Callable[[Axes], object]] = {
        "spend": lambda ax: plots.plot_spend(facts.attempts, cap=cap, ax=ax),
        "latency": lambda ax: plots.plot_latency(summarise_latency(facts.history), ax=ax),
        "throughput": lambda ax: plots.plot_throughput(count_throughput(facts.history), ax=ax),
    }
    return {name: _drawn(prefix, name, drawing) for name, drawing in draw.items()}


def _visible_cap(facts: Facts) -> str | None:
    """Give the cap, unless it is so far away that nothing of the money would be seen below it."""
    cap, spent = (money(facts.summary[name]) for name in ("max_cost_usd", "spent_usd"))
    return text(cap) if cap and spent and cap <= _CAP_TIMES_MAX * spent else None


def _drawn(prefix: str, name: str, draw: Callable[[Axes], object]) -> str:
    try:
        import matplotlib as mpl

        from dreamo_batch.results.figure import Sheet
    except ImportError as error:
        raise UsageError(
            f"The report needs matplotlib ({error}): pip install 'dreamo-batch[report]'."
        ) from None
    sheet = Sheet()
    sheet.set_size_inches(*_SIZE_IN)
    sheet.patch.set_alpha(0)
    ax = sheet.subplots()
    ax.patch.set_alpha(0)
    draw(ax)
    buffer = io.StringIO()
    unsigned: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 10}):
        sheet.savefig(buffer, format="svg", metadata=unsigned)
    return _fitted(buffer.getvalue(), prefix, name)


def _fitted(drawing: str, prefix: str, name: str) -> str:
    """Make a drawing part of a page: no addresses, names of its own, any width, and the page's colours."""
    drawing = _SIZE.sub(r"\1 ", _HEAD.sub("", drawing))
    drawing = _ID.sub(rf"\g<1>{prefix}{name}-", drawing.replace(*_ACROSS))
    for part in theme.Theme.__slots__:
        drawing = drawing.replace(getattr(theme.ON_LIGHT, part), f"var(--{part})")
    return drawing.replace("<svg", f'<svg role="img" aria-label="{name}"', 1).strip()
