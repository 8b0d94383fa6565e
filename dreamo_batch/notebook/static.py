"""A run at one moment as HTML and as text: for notebooks that are not trusted, converted, or have no widgets."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns
from dreamo_batch.notebook import markup
from dreamo_batch.notebook.style import SHEET
from dreamo_batch.notebook.thumbnails import SHARED
from dreamo_batch.notebook.view import view_of
from dreamo_batch.service.harmless import NO_FORMULAS

if TYPE_CHECKING:
    from dreamo_batch.batch.moment import Status
    from dreamo_batch.notebook.view import View

_BAR_CHARACTERS: Final = 40
_SETTLED: Final = {columns.COMPLETED: "#", columns.FAILED: "x", columns.AMBIGUOUS: "?", columns.INVALID: "-"}


def status_html(status: Status) -> str:
    """Write a run at one moment as HTML that needs nothing else: no scripts, no network.

    Parameters
    ----------
    status : Status
        The run at one moment.

    Returns
    -------
    str
        One element; prompts, labels and the service's words are escaped in it, pictures are small copies.

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> html = status_html(example(notices=("<script>",)))
    >>> "3 of 4 rows settled" in html, "<script" in html
    (True, False)
    """
    view = view_of(status)
    thumbnails = SHARED.of(caption.path for caption in view.pictures)
    shown = [markup.picture(caption, thumbnails.get(caption.path)) for caption in view.pictures]
    blocks = [markup.heading(view), markup.progress(view), markup.money(view), markup.problem(view)]
    blocks += [markup.errors(view), markup.gallery(shown), markup.notices(view)]
    as_of = f'<div class="dreamo-faint" style="font-size: 11px">as of {escape(view.at)}</div>'
    inner = "".join(filter(None, (*blocks, as_of)))
    return f'<div class="dreamo-panel dreamo-static {NO_FORMULAS}"><style>{SHEET}</style>{inner}</div>'


def static_bundle(status: Status) -> dict[str, str]:
    """Give both forms by MIME type.

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> sorted(static_bundle(example()))
    ['text/html', 'text/plain']
    """
    return {"text/plain": status_text(status), "text/html": status_html(status)}


def status_text(status: Status) -> str:
    """Write a run at one moment as lines of text, harmless to a terminal.

    Parameters
    ----------
    status : Status
        The run at one moment.

    Returns
    -------
    str
        A few lines, without one at the end.

    Examples
    --------
    >>> from dreamo_batch.notebook.example import example
    >>> print(status_text(example()))
    Running: 3 of 4 rows settled (75 %)  runs/example
      [####################xxxxxxxxxx..........]
      2 completed, 1 failed, 1 in progress
      spent $0.06, reserved $0.03, cap $0.50, projected $0.12 ($0.11 to $0.13)
      6 s so far · 1 in flight · 30 rows/min · about 5 s left
      permanent, 1 row; for example row 2: Invalid parameter
    """
    view = view_of(status)
    lines = [
        _bar(view),
        ", ".join(f"{part.n_rows:,} {part.label}" for part in view.segments),
        _money(view),
        view.pace,
        view.detail,
        *view.problem.split("\n"),
        *(f"{line.name}, {line.count}; for example row {line.row}: {line.message}" for line in view.errors),
    ]
    head = f"{view.title}: {view.progress}  {view.place}"
    return "\n".join([head, *(f"  {line}" for line in lines if line)])


def _bar(view: View) -> str:
    drawn = "".join(
        _SETTLED.get(part.name, "") * round(part.share * _BAR_CHARACTERS) for part in view.segments
    )
    return f"[{drawn[:_BAR_CHARACTERS]:.<{_BAR_CHARACTERS}}]" if view.segments else ""


def _money(view: View) -> str:
    money = view.money
    parts = [f"spent {money.spent}", f"reserved {money.reserved}" if money.reserved else ""]
    parts += [f"cap {money.cap}", f"projected {money.projected}" if money.projected else "", money.warning]
    return ", ".join(filter(None, parts))
