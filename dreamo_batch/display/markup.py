"""How a panel looks, in JupyterLab's colours where it has them, and in those of the page around it elsewhere.

Whatever carries meaning is told in words as well, and stands in `style` attributes rather than in the sheet: a
notebook that is not trusted keeps those and drops the sheet. Colours of states differ in lightness and have a
pattern each, so that those who see few colours tell them apart.
"""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Final

from dreamo_batch import columns

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreamo_batch.display.panel_view import Caption, ErrorLine, Money, Segment, View


# Blue, vermilion and purple of Okabe and Ito's palette; readable on white and on black.
COLOURS: Final = {
    columns.COMPLETED: "#0072b2",
    columns.FAILED: "#d55e00",
    columns.AMBIGUOUS: "#cc79a7",
    columns.INVALID: "#8a6d3b",
    columns.IN_PROGRESS: "#56b4e9",
    columns.SUBMITTING: "#9ad0f0",
    columns.PENDING: "#b4b4b4",
    "spent": "#0072b2",
    "reserved": "#56b4e9",
}

TONES: Final = {"busy": "#56b4e9", "good": "#0072b2", "bad": "#d55e00", "quiet": "#8c8c8c"}

SHEET: Final = """
.dreamo-panel { box-sizing: border-box; max-width: 920px; padding: 10px 14px 12px; margin: 4px 0;
  border: 1px solid var(--jp-border-color2, rgba(128, 128, 128, 0.45)); border-radius: 6px;
  color: var(--jp-ui-font-color1, inherit); font-size: var(--jp-ui-font-size1, 13px); line-height: 1.45;
  font-family: var(--jp-ui-font-family, system-ui, sans-serif); }
.dreamo-panel.jupyter-widgets { overflow: hidden; }
.dreamo-panel .widget-html, .dreamo-panel .widget-html-content { width: auto; min-width: 0; max-width: 100%;
  height: auto; line-height: 1.45; font-size: inherit; overflow-wrap: anywhere; }
.dreamo-panel .widget-html-content { flex: 1 1 auto; }
.dreamo-panel .jupyter-widgets { margin: 0; color: inherit; }
.dreamo-panel .dreamo-block.jupyter-widgets { margin: 0 0 8px; }
.dreamo-block { margin: 0 0 8px; overflow-wrap: anywhere; }
.dreamo-head { display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: baseline; }
.dreamo-title { font-size: 1.15em; font-weight: 600; }
.dreamo-place, .dreamo-faint { color: var(--jp-ui-font-color2, inherit); }
.dreamo-picture .dreamo-faint { color: inherit; }
.dreamo-place { font-family: var(--jp-code-font-family, monospace); font-size: 0.92em; }
.dreamo-bar { border-radius: 3px; position: relative; background: var(--jp-layout-color3, rgba(128, 128, 128, 0.3)); }
.dreamo-bar > span { transition: width 0.2s linear; }
.dreamo-legend > span { display: inline-flex; align-items: center; white-space: nowrap; }
.dreamo-swatch { border-radius: 2px; }
.dreamo-pending { background-color: var(--jp-layout-color3, #b4b4b4) !important; }
.dreamo-failed { background-image: repeating-linear-gradient(45deg, rgba(0, 0, 0, 0.38) 0 2px, transparent 2px 6px); }
.dreamo-ambiguous { background-image: radial-gradient(rgba(0, 0, 0, 0.6) 1.2px, transparent 1.6px);
  background-size: 6px 6px; }
.dreamo-invalid { background-image: repeating-linear-gradient(90deg, rgba(255, 255, 255, 0.5) 0 1px,
  transparent 1px 4px); }
.dreamo-reserved { background-image: repeating-linear-gradient(135deg, rgba(255, 255, 255, 0.55) 0 2px,
  transparent 2px 6px); }
.dreamo-mark { position: absolute; top: -3px; bottom: -3px; margin-left: -1px;
  border-left: 2px solid var(--jp-ui-font-color1, currentColor); }
.dreamo-range { position: absolute; bottom: -3px; height: 2px; background: var(--jp-ui-font-color1, currentColor);
  opacity: 0.6; }
.dreamo-figures b { font-weight: 600; font-variant-numeric: tabular-nums; }
.dreamo-problem { border-left: 4px solid #d55e00; padding: 4px 10px;
  background: var(--jp-layout-color2, rgba(128, 128, 128, 0.12)); }
.dreamo-panel .dreamo-block.jupyter-widgets { margin: 0 0 8px; overflow: hidden; }
.dreamo-picture { border-radius: 4px; overflow: hidden;
  background: var(--jp-layout-color2, rgba(128, 128, 128, 0.12)); }
.dreamo-picture img, .dreamo-absent { object-fit: cover;
  background: var(--jp-layout-color3, rgba(128, 128, 128, 0.3)); }
.dreamo-prompt { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }
.dreamo-notices ul, .dreamo-errors ul { margin: 2px 0 0; padding-left: 1.3em; }
.dreamo-notices ul { max-height: 7.5em; overflow-y: auto; }
.dreamo-panel .dreamo-buttons { flex-wrap: wrap; gap: 6px; margin: 0 0 8px; overflow: visible; align-items: center; }
.dreamo-panel .dreamo-buttons .jupyter-button { width: auto; min-width: 76px; padding: 0 12px; margin: 0; }
.dreamo-panel .dreamo-buttons .jupyter-button:focus-visible { outline: 2px solid var(--jp-brand-color1, #0072b2); }
.dreamo-panel .dreamo-buttons .jupyter-button:disabled { opacity: 0.45; }
.dreamo-panel .dreamo-buttons .widget-text { width: 190px; }
.dreamo-panel .dreamo-buttons .widget-text .widget-label { width: auto; }
"""


_SHOWN_PX: Final = 112
_CARD: Final = f"display: inline-block; width: {_SHOWN_PX}px; vertical-align: top; margin: 0 8px 8px 0"
_TWO_LINES: Final = "max-height: 29px; overflow: hidden; overflow-wrap: anywhere"


def heading(view: View) -> str:
    """Say what the run does, where, how far it is and how quickly it goes."""
    dot = _box(TONES[view.tone], "border-radius: 50%")
    title = f'<span class="dreamo-title" style="font-weight: 600">{dot} {escape(view.title)}</span>'
    parts = [title, f"<span><b>{escape(view.progress)}</b></span>"]
    if view.pace:
        parts.append(f"<span>{escape(view.pace)}</span>")
    parts.append(f'<span class="dreamo-place">{escape(view.place)}</span>')
    detail = f'<div class="dreamo-faint">{escape(view.detail)}</div>' if view.detail else ""
    return _block(f'<div class="dreamo-head">{" ".join(parts)}</div>{detail}')


def progress(view: View) -> str:
    """Draw rows by status as one bar with its legend."""
    told = ", ".join(f"{part.n_rows:,} {part.label}" for part in view.segments)
    parts = "".join(_stretch(part.name, part.share) for part in view.segments)
    legend = " ".join(_legend(part) for part in view.segments)
    return _block(f'{_bar(parts, told, 14)}<div class="dreamo-legend" style="margin-top: 5px">{legend}</div>')


def money(view: View) -> str:
    """Draw what is spent and set aside, up to the cap, with the projection marked on it."""
    amounts = view.money
    figures = [_figure("spent", amounts.spent, "spent")]
    if amounts.reserved:
        figures.append(_figure("reserved", amounts.reserved, "reserved"))
    figures.append(_figure("cap", amounts.cap))
    if amounts.projected:
        figures.append(_figure("projected", amounts.projected))
    warning = f'<b style="color: {COLOURS["failed"]}">&#9888; {escape(amounts.warning)}</b>'
    line = " ".join(figures) + (f" {warning}" if amounts.warning else "")
    bar = _money_bar(amounts) if amounts.has_bar else ""
    return _block(f'{bar}<div class="dreamo-figures" style="margin-top: 5px">{line}</div>')


def problem(view: View) -> str:
    """Say what stopped the run, and what to do."""
    return warning_box(view.problem) if view.problem else ""


def warning_box(text: str) -> str:
    """Set a message apart."""
    inner = f'<div class="dreamo-problem" style="white-space: pre-wrap">{escape(text)}</div>'
    return _block(inner)


def errors(view: View) -> str:
    """List classes of errors, with how many rows and an example each."""
    if not view.errors:
        return ""
    items = "".join(f"<li>{_error(line)}</li>" for line in view.errors)
    return _block(f"<b>Errors</b><ul>{items}</ul>", "dreamo-errors")


def notices(view: View) -> str:
    """List what was to be said, newest first."""
    if not view.notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in view.notices)
    return _block(f"<b>Notices</b><ul>{items}</ul>", "dreamo-notices")


def picture(caption: Caption, thumbnail: bytes | None) -> str:
    """Show a picture with its caption; in its place a word while there is none."""
    prompt = escape(caption.prompt)
    return (
        f'<div class="dreamo-picture" style="{_CARD}" '
        f'title="{prompt}">{_image(thumbnail, prompt)}'
        f'<div style="padding: 3px 5px; font-size: 11px; line-height: 1.3">{escape(caption.label)}'
        f"<div>{escape(caption.seed)}</div>"
        f'<div class="dreamo-prompt dreamo-faint" style="{_TWO_LINES}">{prompt}</div></div></div>'
    )


def gallery(pictures: Iterable[str]) -> str:
    """Stand pictures side by side, as many as fit."""
    inner = " ".join(pictures)
    row = f'<div class="dreamo-pictures" style="display: flex; flex-wrap: wrap">{inner}</div>'
    return _block(f"{NEWEST}{row}") if inner else ""


NEWEST: Final = '<div style="margin-bottom: 3px"><b>Newest pictures</b></div>'


def _image(thumbnail: bytes | None, prompt: str) -> str:
    size = f"width: {_SHOWN_PX}px; height: {_SHOWN_PX}px"
    if thumbnail:
        data = base64.b64encode(thumbnail).decode("ascii")
        return f'<img src="data:image/jpeg;base64,{data}" alt="{prompt}" style="display: block; {size}">'
    words = "&hellip;" if thumbnail is None else "can't be read"
    return f'<div class="dreamo-absent" style="{size}; line-height: {_SHOWN_PX}px; text-align: center">{words}</div>'


def _error(line: ErrorLine) -> str:
    example = f": {escape(line.message)}" if line.message else ""
    return (
        f"<b>{escape(line.name)}</b>, {escape(line.count)}; "
        f'<span class="dreamo-faint">for example row {escape(line.row)}{example}</span>'
    )


def _legend(part: Segment) -> str:
    swatch = _box(COLOURS[part.name], "", f"dreamo-{part.name}")
    return f'<span style="margin-right: 12px">{swatch}&nbsp;<b>{part.n_rows:,}</b>&nbsp;{escape(part.label)}</span>'


def _figure(label: str, amount: str, colour: str = "") -> str:
    swatch = _box(COLOURS[colour], "", f"dreamo-{colour}") + "&nbsp;" if colour else ""
    return f'<span style="margin-right: 12px; white-space: nowrap">{swatch}{label} <b>{escape(amount)}</b></span>'


def _money_bar(amounts: Money) -> str:
    told = f"spent {amounts.spent}, reserved {amounts.reserved or '$0.00'}, cap {amounts.cap}"
    parts = _stretch("spent", amounts.spent_share) + _stretch("reserved", amounts.reserved_share)
    return _bar(parts + _marks(amounts), told, 10)


def _marks(amounts: Money) -> str:
    if amounts.projected_shares is None:
        return ""
    low, likely, high = (100 * share for share in amounts.projected_shares)
    return (
        f'<span class="dreamo-range" style="left: {low:.2f}%; width: {high - low:.2f}%"></span>'
        f'<span class="dreamo-mark" title="projected" style="left: {likely:.2f}%"></span>'
    )


def _bar(inner: str, told: str, height_px: int) -> str:
    return (
        f'<div class="dreamo-bar" role="img" aria-label="{escape(told)}" title="{escape(told)}" '
        f'style="display: flex; height: {height_px}px; width: 100%">{inner}</div>'
    )


def _stretch(name: str, share: float) -> str:
    # A single row among thousands still shows.
    width = f"min-width: {2 if share else 0}px; width: {100 * share:.2f}%"
    return f'<span class="dreamo-{name}" style="background-color: {COLOURS[name]}; height: 100%; {width}"></span>'


def _box(colour: str, more: str = "", name: str = "") -> str:
    shape = f"display: inline-block; width: 10px; height: 10px; background-color: {colour}; {more}"
    return f'<span class="dreamo-swatch {name}" style="{shape}"></span>'


def _block(inner: str, name: str = "") -> str:
    return f'<div class="dreamo-block {name}" style="margin-bottom: 8px">{inner}</div>'
