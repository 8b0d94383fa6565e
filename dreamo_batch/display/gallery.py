"""Which rows of a table are meant, by labels or by a boolean for each."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import os
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, overload
from urllib.parse import quote

import numpy as np

from dreamo_batch import columns, files
from dreamo_batch.display import grid as axes
from dreamo_batch.display.grid import (
    GONE,
    NO_RESULT,
    PICTURE,
    UNSAVED,
    lay_out,
    refuse_other_tables,
    shortened,
)
from dreamo_batch.display.references import References, beside
from dreamo_batch.display.thumbnails import BYTES_MAX, Thumbnails, is_there, shown
from dreamo_batch.errors import UsageError
from dreamo_batch.results.frame import folders_of, row_mask, run_dir_of
from dreamo_batch.text import NO_FORMULAS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    import pandas as pd

    from dreamo_batch.display.grid import Entry, Grid, Names
    from dreamo_batch.display.references import Beside, Reference
    from dreamo_batch.display.thumbnails import Thumbnail


CELL_PX: Final = ((3, 216), (4, 176), (6, 144), (9, 112), (10**9, 88))
"""How wide a cell is where at most so many stand side by side."""

# Notebooks have rules of their own for tables, which these must win over.
# Colours are mixed from the ink around, so that light pages, dark pages and notebook themes are all suited.
STYLE: Final = """
.dreamo-gallery{color:inherit;font:13px/1.4 system-ui,"Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",
 sans-serif;--dg-line:color-mix(in srgb,currentColor 18%,transparent);
 --dg-wash:color-mix(in srgb,currentColor 5%,transparent);--dg-bad:#d55e00;--dg-doubt:#cc79a7;--dg-open:#3a87c8}
.dreamo-gallery *{box-sizing:border-box}
.dreamo-gallery .dg-head{display:flex;gap:14px;align-items:center;margin:0 0 12px}
.dreamo-gallery .dg-keys{display:flex;flex-wrap:wrap;gap:2px 14px}
.dreamo-gallery .dg-key::before{content:"";display:inline-block;width:9px;height:9px;margin-right:5px;
 border-radius:2px;background:var(--dg-mark,currentColor);opacity:.85}
.dreamo-gallery .dg-extent{opacity:.7;font-size:12px}
.dreamo-gallery .dg-scroll{overflow-x:auto}
.dreamo-gallery tr{background:none!important}
.dreamo-gallery table{border-collapse:separate;border-spacing:6px;margin:0 -6px;font-size:inherit;border:0;
 table-layout:auto;width:auto}
.dreamo-gallery th,.dreamo-gallery td{border:0;padding:0!important;background:none!important;
 vertical-align:top!important;text-align:left!important;white-space:normal}
.dreamo-gallery thead th{font-weight:600;vertical-align:bottom!important;padding-bottom:2px!important;
 text-align:center!important;
 overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.dreamo-gallery thead th.dg-names{font-weight:400;opacity:.7;font-size:12px;
 text-align:left!important}
.dreamo-gallery .dg-names span{display:block}
.dreamo-gallery .dg-down::after{content:" \\2193"}
.dreamo-gallery .dg-across::after{content:" \\2192"}
.dreamo-gallery .dg-down:empty,.dreamo-gallery .dg-across:empty{display:none}
.dreamo-gallery .dg-across{text-align:right}
.dreamo-gallery tbody th{width:176px;min-width:120px;max-width:220px;padding-right:6px!important;font-weight:400;
 overflow-wrap:anywhere}
.dreamo-gallery .dg-label{display:block;max-height:340px;overflow-y:auto}
.dreamo-gallery .dg-label+.dg-label{opacity:.75;font-weight:400}
.dreamo-gallery td{width:var(--dg-cell);min-width:var(--dg-cell)}
.dreamo-gallery td.dg-none{text-align:center!important;color:color-mix(in srgb,currentColor 55%,transparent);
 vertical-align:middle!important;
 border:1px dashed color-mix(in srgb,currentColor 45%,transparent);border-radius:4px}
.dreamo-gallery img{display:block;width:100%;height:auto;max-width:none;margin:0;border-radius:4px}
.dreamo-gallery .dg-references{display:flex;flex-wrap:wrap;gap:6px;margin-bottom:4px}
.dreamo-gallery figure{margin:0;width:72px}
.dreamo-gallery figure img{outline:1px solid var(--dg-line)}
.dreamo-gallery figcaption{font-size:11px;opacity:.7;overflow-wrap:anywhere;line-height:1.25;margin-top:2px}
.dreamo-gallery thead .dg-references{justify-content:center}
.dreamo-gallery .dg-entry{position:relative;margin:0;padding:0}
.dreamo-gallery .dg-entry+.dg-entry{margin-top:4px}
.dreamo-gallery summary{display:block;list-style:none;cursor:zoom-in;border-radius:4px}
.dreamo-gallery summary::-webkit-details-marker{display:none}
.dreamo-gallery summary:focus-visible{outline:2px solid var(--dg-open);outline-offset:2px}
.dreamo-gallery details[open]>summary{cursor:zoom-out}
.dreamo-gallery details.dg-entry[open]{width:min(320px,80vw)}
.dreamo-gallery .dg-more>summary{cursor:pointer;font-weight:600}
.dreamo-gallery .dg-more>.dg-entry{margin-top:4px}
.dreamo-gallery .dg-box{display:flex;flex-direction:column;justify-content:center;gap:2px;min-height:76px;
 aspect-ratio:1;max-height:calc(var(--dg-cell)*1.1);width:100%;
 padding:8px;border-radius:4px;overflow:hidden;font-size:11.5px;line-height:1.3;overflow-wrap:anywhere;
 background:color-mix(in srgb,var(--dg-mark,currentColor) 11%,transparent);
 border:1px solid color-mix(in srgb,var(--dg-mark,currentColor) 50%,transparent)}
.dreamo-gallery .dg-box b{font-size:12.5px}
.dreamo-gallery .dg-box span{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:4;overflow:hidden;
 opacity:.85}
.dreamo-gallery .dg-failed,.dreamo-gallery .dg-invalid,.dreamo-gallery .dg-gone,.dreamo-gallery .dg-unsaved
 {--dg-mark:var(--dg-bad)}
.dreamo-gallery .dg-ambiguous{--dg-mark:var(--dg-doubt)}
.dreamo-gallery .dg-in_progress,.dreamo-gallery .dg-submitting{--dg-mark:var(--dg-open)}
.dreamo-gallery .dg-pending{--dg-mark:color-mix(in srgb,currentColor 55%,transparent)}
.dreamo-gallery .dg-key.dg-picture{--dg-mark:color-mix(in srgb,currentColor 70%,transparent)}
.dreamo-gallery .dg-entry .dg-box{border-style:solid}
.dreamo-gallery .dg-pending .dg-box,.dreamo-gallery .dg-in_progress .dg-box,.dreamo-gallery .dg-submitting .dg-box
 {border-style:dashed}
.dreamo-gallery .dg-told,.dreamo-gallery .dg-more{display:block;font-size:11px;margin-top:2px;
 overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.dreamo-gallery .dg-told,.dreamo-gallery .dg-more>summary,.dreamo-gallery .dg-beyond{opacity:.75}
.dreamo-gallery .dg-same{position:absolute;left:4px;top:4px;padding:0 5px;border-radius:3px;font-size:10.5px;
 color:#fff;background:rgba(0,0,0,.62)}
.dreamo-gallery .dg-facts{padding:6px 2px 2px;font-size:12px}
.dreamo-gallery .dg-facts dl{display:grid;grid-template-columns:max-content 1fr;gap:1px 10px;margin:0}
.dreamo-gallery .dg-facts dt{opacity:.65;font-weight:400;margin:0}
.dreamo-gallery .dg-facts dd{margin:0;overflow-wrap:anywhere}
@media (max-width:640px){
.dreamo-gallery thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.dreamo-gallery table,.dreamo-gallery tbody{display:block;margin:0}
.dreamo-gallery tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(100px,1fr));gap:8px;margin-bottom:18px}
.dreamo-gallery tbody th{grid-column:1/-1;width:auto;max-width:none}
.dreamo-gallery td{display:block;width:auto;min-width:0}
.dreamo-gallery td::before{content:attr(data-column);display:block;font-size:11px;opacity:.7}
.dreamo-gallery td.dg-none{min-height:60px}
.dreamo-gallery td:has(details[open]){grid-column:1/-1}
}
@media print{
.dreamo-gallery{-webkit-print-color-adjust:exact;print-color-adjust:exact;font-size:9pt}
.dreamo-gallery .dg-scroll{overflow:visible}
.dreamo-gallery table{width:100%;table-layout:fixed;border-spacing:3px;margin:0}
.dreamo-gallery .dg-box b{font-size:7.5pt}
.dreamo-gallery td{width:auto;min-width:0}
.dreamo-gallery thead th.dg-names,.dreamo-gallery tbody th{width:22%;min-width:0}
.dreamo-gallery tr{break-inside:avoid}
.dreamo-gallery .dg-box{max-height:none;padding:3px;font-size:6.5pt;min-height:0}
.dreamo-gallery .dg-facts{display:none}
.dreamo-gallery .dg-label{max-height:none}
.dreamo-gallery .dg-more::details-content{content-visibility:visible;display:block}
.dreamo-gallery details[open]{width:auto}
}
"""


ROOT_CLASS: Final = "dreamo-gallery"
IN_CELL_MAX: Final = 4
"""Rows of results that a cell shows at once; the others are unfolded."""
REFERENCES_MAX: Final = 3
"""Reference pictures that a line shows at once; the others are unfolded."""
UNFOLDED_MAX: Final = 60
"""Rows of results that a cell shows in all; how many there are beyond is said."""
WORDS: Final = {
    PICTURE: "picture",
    UNSAVED: "made, not saved",
    GONE: "file gone or damaged",
    columns.PENDING: "pending",
    columns.SUBMITTING: "submitting",
    columns.IN_PROGRESS: "in progress",
    columns.FAILED: "failed",
    columns.INVALID: "invalid",
    columns.AMBIGUOUS: "ambiguous",
    NO_RESULT: "no result",
}
_LABEL_CHARACTERS: Final = 2_000
_REFERENCE_PX: Final = 72


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a grid shows, made small."""

    of_entries: Mapping[int, Thumbnail] = field(default_factory=dict)
    of_references: Mapping[str, Thumbnail] = field(default_factory=dict)
    links: Mapping[int, str] = field(default_factory=dict)
    omitted: frozenset[int] = frozenset()


def grid_html(
    grid: Grid,
    pictures: Pictures,
    beside: Beside,
    *,
    heading: str = "",
    notice: str = "",
    is_open: bool = True,
) -> str:
    """Draw a page of a grid as a fragment of HTML with its own styles."""
    drawing = _Drawing(grid, pictures, beside, is_open=is_open)
    return (
        f'<div class="{ROOT_CLASS} {NO_FORMULAS}" style="--dg-cell:{cell_px(grid)}px"><style>{STYLE}</style>'
        f"{drawing.head(heading, notice)}{drawing.table()}</div>"
    )


def kind_of(entry: Entry, pictures: Pictures) -> str:
    """Say what is drawn of a row: its kind, or that its file is gone."""
    if entry.kind == PICTURE and entry.position not in pictures.of_entries:
        return PICTURE if entry.position in pictures.omitted else GONE
    return entry.kind


def count(entries: Iterable[Entry], pictures: Pictures) -> dict[str, int]:
    """Count what is drawn, by kind, in the order in which it is told."""
    kinds = [kind_of(entry, pictures) for entry in entries]
    return {kind: n for kind in WORDS if (n := kinds.count(kind))}


@dataclass(frozen=True, slots=True)
class _Drawing:
    grid: Grid
    pictures: Pictures
    beside: Beside
    is_open: bool

    def head(self, heading: str, notice: str) -> str:
        title = f"<b>{escape(heading)}</b>" if heading else ""
        counts = count(self.grid.shown(), self.pictures)
        told = " ".join(
            f'<span class="dg-key dg-{kind}">{n} {plural(WORDS[kind], n)}</span>'
            for kind, n in counts.items()
        )
        once = self._references(self.beside.once, "reference")
        words = f'{title}<div class="dg-keys">{told}</div>{self._extent(notice)}'
        return f'<div class="dg-head">{once}<div>{words}</div></div>'

    def _extent(self, notice: str) -> str:
        told = (text for text in (extent(self.grid), notice) if text)
        return "".join(f'<div class="dg-extent">{escape(text)}</div>' for text in told)

    def table(self) -> str:
        if not len(self.grid.shown_rows):
            return "<p>nothing to show: the table has no rows</p>"
        body = "".join(self._row(row) for row in self.grid.shown_rows)
        return f'<div class="dg-scroll"><table>{self._header()}<tbody>{body}</tbody></table></div>'

    def _header(self) -> str:
        corner = escape(" / ".join(self.grid.rows.names))
        axis = escape(" / ".join(self.grid.columns.names))
        cells = "".join(
            f'<th scope="col">{self._over(place)}{_label(self.grid.columns.labels[column])}</th>'
            for place, column in enumerate(self.grid.shown_columns)
        )
        return (
            f'<thead><tr><th class="dg-names"><span class="dg-down">{corner}</span> '
            f'<span class="dg-across">{axis}</span></th>{cells}</tr></thead>'
        )

    def _over(self, place: int) -> str:
        return self._references(self.beside.by_column[place]) if self.beside.by_column else ""

    def _row(self, row: int) -> str:
        place = row - self.grid.shown_rows.start
        references = self._references(self.beside.by_row[place]) if self.beside.by_row else ""
        cells = "".join(self._cell(row, column) for column in self.grid.shown_columns)
        return f'<tr><th scope="row">{references}{_label(self.grid.rows.labels[row])}</th>{cells}</tr>'

    def _cell(self, row: int, column: int) -> str:
        label = escape(_one_line(self.grid.columns.labels[column]), quote=True)
        n = len(self.grid.positions(row, column))
        if not n:
            return f'<td data-column="{label}" class="dg-none" title="not in the table">&ndash;</td>'
        drawn = [self._entry(entry) for entry in self.grid.entries(row, column, n_max=self._n_unfolded())]
        several = ' class="dg-several"' if n > 1 else ""
        more = self._more(drawn[IN_CELL_MAX:], n)
        return f'<td data-column="{label}"{several}>{"".join(drawn[:IN_CELL_MAX])}{more}</td>'

    def _n_unfolded(self) -> int:
        return UNFOLDED_MAX if self.is_open else IN_CELL_MAX

    def _more(self, drawn: Sequence[str], n: int) -> str:
        """Unfold what does not stand in the cell at once."""
        if n <= IN_CELL_MAX:
            return ""
        told = f"+{n - IN_CELL_MAX} more"
        if not drawn:
            return f'<div class="dg-more">{told}</div>'
        n_beyond = n - IN_CELL_MAX - len(drawn)
        beyond = f'<div class="dg-beyond">{beyond_words(n_beyond)}</div>' if n_beyond else ""
        return f'<details class="dg-more"><summary>{told}</summary>{"".join(drawn)}{beyond}</details>'

    def _entry(self, entry: Entry) -> str:
        kind = kind_of(entry, self.pictures)
        told = f'<span class="dg-told">{escape(entry.told)}</span>' if entry.told else ""
        face = f"{self._face(entry, kind)}{told}"
        title = escape(entry.title, quote=True)
        place = f'class="dg-entry dg-{kind}" data-kind="{kind}" data-position="{entry.position}"'
        if not self.is_open:
            return f'<div {place} title="{title}">{face}</div>'
        return f'<details {place}><summary title="{title}">{face}</summary>{self._facts(entry)}</details>'

    def _face(self, entry: Entry, kind: str) -> str:
        thumbnail = self.pictures.of_entries.get(entry.position)
        if thumbnail is not None and kind == PICTURE:
            mark = '<span class="dg-same">duplicate</span>' if entry.duplicate_of is not None else ""
            return image(thumbnail, entry.alt, cell_px(self.grid)) + mark
        word = "picture not embedded" if kind == PICTURE else WORDS[kind]
        note = entry.path or "" if kind == GONE else entry.note
        return (
            f'<span class="dg-box"><b>{escape(word)}</b> <span>{escape(shortened(note, 120))}</span></span>'
        )

    def _facts(self, entry: Entry) -> str:
        link = self.pictures.links.get(entry.position)
        full = f'<a href="{escape(link, quote=True)}">full picture</a>' if link else ""
        lines = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in self._untold(entry)
        )
        return f'<div class="dg-facts">{full}<dl>{lines}</dl></div>'

    def _untold(self, entry: Entry) -> Sequence[tuple[str, str]]:
        """Leave out the long words that the line's head tells; a page of thousands would repeat them."""
        told = {columns.PROMPT} & {*self.grid.rows.names, *self.grid.columns.names}
        return [fact for fact in entry.facts if fact[0] not in told]

    def _references(self, references: Sequence[Reference], word: str = "") -> str:
        drawn = [self._reference(one, word) for one in references]
        first, others = "".join(drawn[:REFERENCES_MAX]), drawn[REFERENCES_MAX:]
        more = f'<details class="dg-more"><summary>+{len(others)} more</summary>{"".join(others)}</details>'
        return f'<div class="dg-references">{first}{more if others else ""}</div>' if drawn else ""

    def _reference(self, one: Reference, word: str) -> str:
        thumbnail = self.pictures.of_references.get(one.key)
        label = escape(shortened(one.label, 60))
        drawn = image(thumbnail, f"reference {one.label}", _REFERENCE_PX) if thumbnail else ""
        return f"<figure>{drawn}<figcaption>{f'{word} ' if word else ''}{label}</figcaption></figure>"


def image(thumbnail: Thumbnail, alt: str, width_px: int) -> str:
    """Give a thumbnail as an element, as wide as is said where styles are dropped."""
    width = min(width_px, thumbnail.width)
    height = round(thumbnail.height * width / thumbnail.width)
    return (
        f'<img src="{thumbnail.data_uri}" width="{width}" height="{height}" alt="{escape(alt, quote=True)}">'
    )


def _label(parts: Sequence[str]) -> str:
    return " ".join(
        f'<span class="dg-label">{escape(shortened(part, _LABEL_CHARACTERS))}</span>' for part in parts
    )


def _one_line(parts: Sequence[str]) -> str:
    return shortened(", ".join(parts), 80)


def plural(word: str, n: int) -> str:
    """Give the word for so many of a kind."""
    return word + "s" if word == WORDS[PICTURE] and n != 1 else word


def beyond_words(n: int) -> str:
    """Say how the rows are seen that a cell shows neither at once nor unfolded."""
    return f"{n} more not shown here: add a column to rows= or columns=, or give fewer rows"


def extent(grid: Grid) -> str:
    """Say which part of the whole a page is; nothing if it is the whole."""
    n_rows, n_columns = grid.shape
    parts = [
        f"{name} {shown.start + 1} to {shown.stop} of {n}"
        for name, shown, n in (("rows", grid.shown_rows, n_rows), ("columns", grid.shown_columns, n_columns))
        if len(shown) < n
    ]
    return ", ".join(parts)


def cell_px(grid: Grid) -> int:
    """Choose how wide a cell is, by how many stand side by side."""
    n = len(grid.shown_columns)
    return next(width for at_most, width in CELL_PX if n <= at_most)


def content_of(
    grid: Grid,
    pictures: Pictures,
    beside: Beside,
    *,
    number: int,
    title: str = "",
    notice: str = "",
    is_live: bool = False,
) -> dict[str, Any]:
    """Describe a page for the widget."""
    counts = count(grid.shown(), pictures)
    return {
        "title": title,
        "number": number,
        "pages": grid.n_pages,
        "live": is_live,
        "extent": "; ".join(text for text in (extent(grid), notice) if text),
        "cell": cell_px(grid),
        "down": " / ".join(grid.rows.names),
        "across": " / ".join(grid.columns.names),
        "counts": [[kind, f"{n} {plural(WORDS[kind], n)}"] for kind, n in counts.items()],
        "references": _references(beside.once, pictures),
        "columns": [
            {
                "labels": list(grid.columns.labels[column]),
                "references": _at(beside.by_column, place, pictures),
            }
            for place, column in enumerate(grid.shown_columns)
        ],
        "rows": [
            {
                "labels": list(grid.rows.labels[row]),
                "references": _at(beside.by_row, place, pictures),
                "cells": [_cell(grid, row, column, pictures) for column in grid.shown_columns],
            }
            for place, row in enumerate(grid.shown_rows)
        ],
    }


def _cell(grid: Grid, row: int, column: int, pictures: Pictures) -> dict[str, Any]:
    entries = [_entry(entry, pictures) for entry in grid.entries(row, column, n_max=UNFOLDED_MAX)]
    n = len(grid.positions(row, column))
    return {
        "entries": entries[:IN_CELL_MAX],
        "more": entries[IN_CELL_MAX:],
        "n_more": n - min(n, IN_CELL_MAX),
        "beyond": beyond_words(n - len(entries)) if n > len(entries) else "",
    }


def _entry(entry: Entry, pictures: Pictures) -> dict[str, Any]:
    kind = kind_of(entry, pictures)
    return {
        "position": entry.position,
        "kind": kind,
        "word": WORDS[kind],
        "note": entry.path or "" if kind == GONE else entry.note,
        "alt": entry.alt,
        "title": entry.title,
        "told": entry.told,
        "same": entry.duplicate_of is not None,
        "thumbnail": _thumbnail(pictures.of_entries.get(entry.position) if kind == PICTURE else None),
        "facts": [list(fact) for fact in entry.facts],
    }


def _at(lines: Sequence[Sequence[Reference]], place: int, pictures: Pictures) -> list[dict[str, Any]]:
    return _references(lines[place], pictures) if lines else []


def _references(references: Sequence[Reference], pictures: Pictures) -> list[dict[str, Any]]:
    return [
        {"label": one.label, "thumbnail": _thumbnail(pictures.of_references.get(one.key))}
        for one in references
    ]


def _thumbnail(small: Thumbnail | None) -> list[Any] | None:
    return None if small is None else [small.content, small.width, small.height]


SCRIPT: Final = r"""
"use strict";
(() => {
const root = document.querySelector(".dreamo-gallery"), bar = document.querySelector(".bar");
const dialog = document.querySelector("dialog");
const nRows = +document.body.dataset.rows, nColumns = +document.body.dataset.columns;
const make = (tag, text, parent, kind) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  if (parent) parent.append(made);
  return made;
};
const head = root.querySelector("thead tr");
const lines = [...root.querySelectorAll("tbody tr")];
if (!head || !lines.length) return;
const width = head.children.length - 1;
const kinds = new Map();
for (const entry of root.querySelectorAll(".dg-entry"))
  kinds.set(entry.dataset.kind, (kinds.get(entry.dataset.kind) || 0) + 1);
let down = 0, across = 0, kind = "", chosen = lines;

const pages = () => [Math.max(1, Math.ceil(chosen.length / nRows)), Math.max(1, Math.ceil(width / nColumns))];
const show = () => {
  const [n, m] = pages();
  down = Math.min(Math.max(down, 0), n - 1); across = Math.min(Math.max(across, 0), m - 1);
  const seen = new Set(chosen.slice(down * nRows, (down + 1) * nRows));
  const from = across * nColumns, to = from + nColumns;
  for (const line of [head, ...lines]) {
    line.hidden = line !== head && !seen.has(line);
    if (line.hidden) continue;
    for (let i = 0; i < width; i++) line.children[i + 1].hidden = i < from || i >= to;
  }
  told(n, m, from, to);
};
const filter = value => {
  kind = value;
  for (const entry of root.querySelectorAll(".dg-entry")) entry.hidden = !!kind && entry.dataset.kind !== kind;
  for (const more of root.querySelectorAll("details.dg-more")) {
    const matches = !!kind && !!more.querySelector(`.dg-entry[data-kind="${kind}"]`);
    more.hidden = !!kind && !matches; more.open = matches;
  }
  chosen = kind ? lines.filter(line => line.querySelector(`.dg-entry[data-kind="${kind}"]`)) : lines;
  down = 0; show();
};

const step = (text, label, act) => {
  const button = make("button", text);
  button.setAttribute("aria-label", label); button.addEventListener("click", act);
  return button;
};
const buttons = {
  up: step("\u2191", "rows before", () => { down--; show(); }),
  below: step("\u2193", "rows after", () => { down++; show(); }),
  left: step("\u2190", "columns before", () => { across--; show(); }),
  right: step("\u2192", "columns after", () => { across++; show(); }),
};
const rowsTold = make("span"), columnsTold = make("span");
const told = (n, m, from, to) => {
  rowsTold.textContent = chosen.length
    ? `rows ${down * nRows + 1}\u2013${Math.min(chosen.length, (down + 1) * nRows)} of ${chosen.length}` : "no rows";
  columnsTold.textContent = `columns ${from + 1}\u2013${Math.min(width, to)} of ${width}`;
  buttons.up.disabled = down === 0; buttons.below.disabled = down >= n - 1;
  buttons.left.disabled = across === 0; buttons.right.disabled = across >= m - 1;
};
if (lines.length > nRows) bar.append(buttons.up, rowsTold, buttons.below);
if (width > nColumns) bar.append(buttons.left, columnsTold, buttons.right);
if (kinds.size > 1) {
  const label = make("label", "show ", bar), select = make("select", "", label);
  make("option", "all", select).value = "";
  for (const [name, n] of kinds) make("option", `${name.replace("_", " ")} (${n})`, select).value = name;
  select.addEventListener("change", () => filter(select.value));
}
make("span", "click or Enter: larger \u00b7 arrows: next \u00b7 PageUp, PageDown: rows", bar, "keys");
bar.hidden = false;

const entries = () => [...root.querySelectorAll("tbody tr:not([hidden]) td:not([hidden]) .dg-entry:not([hidden])")];
let at = null;
const open = entry => {
  if (!entry) return;
  at = entry;
  const row = entry.closest("tr"), column = head.children[entry.closest("td").cellIndex];
  dialog.replaceChildren();
  const zoom = make("div", "", dialog, "zoom"), seen = make("div", "", zoom, "seen dreamo-gallery");
  const face = entry.querySelector("summary").cloneNode(true);
  const shell = make("div", "", seen, entry.className); shell.append(...face.childNodes);
  const right = make("div", "", zoom, "told dreamo-gallery"), nav = make("nav", "", right);
  nav.append(step("\u2190", "before", () => move(-1)), step("\u2192", "next", () => move(1)),
    step("close", "close", () => dialog.close()));
  const words = th => [...th.querySelectorAll(".dg-label")].map(part => part.textContent).join(" \u00b7 ");
  const axis = head.querySelector(".dg-across").textContent;
  make("h2", [words(row.querySelector("th")), `${axis} ${words(column)}`.trim()].filter(Boolean).join(", "), right);
  const facts = entry.querySelector(".dg-facts");
  if (facts) right.append(facts.cloneNode(true));
  if (!dialog.open) dialog.showModal();
};
const move = by => { const all = entries(); open(all[Math.min(all.length - 1, Math.max(0, all.indexOf(at) + by))]); };
root.addEventListener("click", event => {
  const summary = event.target.closest("summary");
  if (!summary || summary.parentElement.classList.contains("dg-more")) return;
  event.preventDefault(); open(summary.parentElement);
});
dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => {
  if (!at) return;
  const more = at.closest("details.dg-more");
  if (more) more.open = true;
  at.querySelector("summary").focus();
});
const beside = (entry, rows, columns) => {
  const cell = entry.closest("td"), seen = lines.filter(line => !line.hidden);
  const line = seen[seen.indexOf(cell.parentElement) + rows];
  const to = line && line.children[cell.cellIndex + columns];
  return to && !to.hidden && to.querySelector(".dg-entry:not([hidden])");
};
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.tagName === "SELECT") return;
  const ways = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  const way = ways[event.key];
  if (dialog.open) { if (way) { event.preventDefault(); move(way[0] + way[1]); } return; }
  if (event.key === "PageDown" || event.key === "PageUp") {
    if (lines.length <= nRows) return;
    event.preventDefault(); down += event.key === "PageDown" ? 1 : -1; show(); scrollTo(0, 0); return;
  }
  const entry = document.activeElement && document.activeElement.closest(".dg-entry");
  if (!way || !entry) return;
  const to = beside(entry, way[0], way[1]);
  if (to) { event.preventDefault(); to.querySelector("summary").focus(); }
});
show();
})();
"""


_STYLE: Final = """
:root{color-scheme:light dark;--paper:#fdfdfc;--ink:#1d1d1b}
@media (prefers-color-scheme:dark){:root{--paper:#16171a;--ink:#e9e8e4}}
*{box-sizing:border-box}
body{margin:0;padding:20px 24px 40px;background:var(--paper);color:var(--ink);
 font:14px/1.45 system-ui,"Noto Sans","Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif}
h1{font-size:20px;font-weight:600;margin:0 0 14px;overflow-wrap:anywhere}
button,select{font:inherit;color:inherit;background:color-mix(in srgb,var(--ink) 6%,var(--paper));
 border:1px solid color-mix(in srgb,var(--ink) 25%,var(--paper));border-radius:5px;padding:3px 10px;cursor:pointer}
button:disabled{opacity:.4;cursor:default}
button:focus-visible,select:focus-visible{outline:2px solid #3a87c8;outline-offset:1px}
.bar{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;margin:0 0 14px;position:sticky;top:0;z-index:2;
 background:var(--paper);padding:8px 0;border-bottom:1px solid color-mix(in srgb,var(--ink) 12%,var(--paper))}
.bar[hidden],.dreamo-gallery [hidden]{display:none!important}
.bar span{font-variant-numeric:tabular-nums}
.keys{opacity:.65;font-size:12px;margin-left:auto}
dialog{border:0;border-radius:10px;padding:0;max-width:min(1100px,94vw);max-height:94vh;overflow:auto;
 background:var(--paper);color:var(--ink);box-shadow:0 10px 60px rgba(0,0,0,.5)}
dialog::backdrop{background:rgba(0,0,0,.72)}
.zoom{display:flex;flex-wrap:wrap;gap:18px;padding:18px}
.zoom>.seen{flex:1 1 320px;max-width:640px;min-width:0}
.zoom .seen img{width:100%;height:auto;border-radius:6px;display:block}
.zoom>.told{flex:1 1 300px;min-width:0}
.zoom h2{font-size:15px;font-weight:600;margin:0 0 10px;overflow-wrap:anywhere;max-height:30vh;overflow:auto}
.zoom nav{display:flex;gap:8px;margin:0 0 12px}
.zoom nav button:last-child{margin-left:auto}
@media (max-width:640px){body{padding:12px}.keys{display:none}.zoom{padding:12px;gap:12px}}
@page{margin:14mm}
@media print{.bar,dialog{display:none!important}body{padding:0;background:#fff;color:#111}
 .dreamo-gallery [hidden]{display:revert!important}}
"""
_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; "
    "form-action 'none'"
)


def page_html(fragment: str, *, title: str, page_size: tuple[int, int]) -> str:
    """Put a grid on a page of its own."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = escape(_POLICY.format(digest), quote=True)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f'<body data-rows="{page_size[0]}" data-columns="{page_size[1]}"><h1>{escape(title)}</h1>'
        '<div class="bar" hidden></div>\n'
        f"{fragment}\n<dialog></dialog>\n<script>{SCRIPT}</script></body></html>\n"
    )


def linker(
    page: Path, folder_of: Callable[[Entry], Path], *, is_wanted: bool | None
) -> Callable[[Entry], str | None]:
    """Say how the page leads to full pictures."""
    folder = os.path.abspath(page.parent)  # noqa: PTH100 - resolve() would follow symlinks

    def link(entry: Entry) -> str | None:
        if entry.path is None or is_wanted is False:
            return None
        root = os.path.abspath(folder_of(entry))  # noqa: PTH100
        if is_wanted is None and os.path.commonpath([folder, root]) != root:
            return None
        return quote(os.path.relpath(os.path.join(root, entry.path), folder).replace(os.sep, "/"))  # noqa: PTH118

    return link


WIDGET_STYLE: Final = """
.dreamo-gallery.dg-live{padding:4px 2px}
.dreamo-gallery .dg-bar{display:flex;flex-wrap:wrap;gap:6px 12px;align-items:center;margin:0 0 8px;min-height:28px}
.dreamo-gallery .dg-bar .dg-spring{flex:1}
.dreamo-gallery button{font:inherit;color:inherit;background:var(--dg-wash);border:1px solid var(--dg-line);
 border-radius:5px;padding:2px 9px;cursor:pointer}
.dreamo-gallery button:disabled{opacity:.4;cursor:default}
.dreamo-gallery .dg-hint{opacity:.6;font-size:11.5px}
.dreamo-gallery .dg-live-entry{cursor:zoom-in;border-radius:5px;outline-offset:2px}
.dreamo-gallery .dg-live-entry:focus-visible{outline:2px solid var(--dg-open)}
.dreamo-gallery .dg-live-entry[aria-selected=true]{box-shadow:0 0 0 3px var(--dg-open)}
.dreamo-gallery .dg-tick{position:absolute;right:5px;top:5px;width:20px;height:20px;padding:0;border-radius:50%;
 border:1.5px solid #fff;background:rgba(0,0,0,.35);color:transparent;font-size:12px;line-height:1;opacity:0;
 box-shadow:0 0 2px rgba(0,0,0,.5)}
.dreamo-gallery .dg-live-entry:hover .dg-tick,.dreamo-gallery .dg-live-entry:focus-within .dg-tick,
.dreamo-gallery .dg-live-entry:focus .dg-tick{opacity:1}
.dreamo-gallery .dg-live-entry[aria-selected=true] .dg-tick{opacity:1;background:var(--dg-open);color:#fff}
@media (hover:none){.dreamo-gallery .dg-tick{opacity:1}}
.dreamo-gallery dialog{border:0;border-radius:10px;padding:0;max-width:min(1180px,94vw);max-height:94vh;overflow:auto;
 background:var(--jp-layout-color1,Canvas);color:var(--jp-ui-font-color1,CanvasText);
 box-shadow:0 10px 60px rgba(0,0,0,.5)}
.dreamo-gallery dialog::backdrop{background:rgba(0,0,0,.72)}
.dreamo-gallery .dg-zoom{display:flex;flex-wrap:wrap;gap:18px;padding:18px}
.dreamo-gallery .dg-seen{flex:2 1 340px;min-width:0;max-width:720px}
.dreamo-gallery .dg-seen img{width:100%;max-height:84vh;object-fit:contain;border-radius:6px}
.dreamo-gallery .dg-words{flex:1 1 300px;min-width:0}
.dreamo-gallery .dg-words nav{display:flex;gap:8px;margin-bottom:12px}
.dreamo-gallery .dg-words nav .dg-spring{flex:1}
.dreamo-gallery .dg-words h4{font-size:14px;font-weight:600;margin:0 0 8px;overflow-wrap:anywhere;max-height:24vh;
 overflow:auto}
"""

ESM: Final = r"""
const make = (tag, parent, kind, text) => {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined && text !== "") made.textContent = text;
  if (parent) parent.append(made);
  return made;
};
const press = (parent, text, label, act) => {
  const button = make("button", parent, "", text);
  button.type = "button"; button.setAttribute("aria-label", label); button.title = label;
  button.addEventListener("click", event => { event.stopPropagation(); act(event); });
  return button;
};

function render({ model, el }) {
  const root = make("div", el, "dreamo-gallery dg-live");
  root.setAttribute("data-lm-suppress-shortcuts", "true");  // keys are the gallery's while it has the focus
  const bar = make("div", root, "dg-bar"), head = make("div", root, "dg-head");
  const scroll = make("div", root, "dg-scroll"), dialog = make("dialog", root);
  let urls = [], full = null, cells = new Map(), order = [], anchor = null, at = null, chosenTold = null, clear = null;

  const image = (parent, thumbnail, alt) => {
    const [bytes, width, height] = thumbnail, made = make("img", parent);
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    urls.push(url);
    made.width = width; made.height = height; made.alt = alt; made.src = url;
    return made;
  };
  const references = (parent, listed, word) => {
    if (!listed.length) return;
    const box = make("div", parent, "dg-references");
    let within = box;
    listed.forEach((one, n) => {
      if (n === 3) {
        within = make("details", box, "dg-more");
        make("summary", within, "", `+${listed.length - 3} more`);
      }
      const figure = make("figure", within);
      if (one.thumbnail) image(figure, one.thumbnail, `reference ${one.label}`);
      make("figcaption", figure, "", `${word}${one.label}`);
    });
  };
  const labels = (parent, listed) => { for (const label of listed) make("span", parent, "dg-label", label); };

  const chosen = () => new Set(model.get("chosen"));
  const choose = positions => {
    model.set("chosen", [...positions].sort((a, b) => a - b)); model.save_changes(); mark();
  };
  const toggle = position => {
    const now = chosen();
    now.has(position) ? now.delete(position) : now.add(position);
    anchor = position; choose(now);
  };
  const reach = position => {
    const from = order.indexOf(anchor === null ? position : anchor), to = order.indexOf(position);
    const now = chosen();
    for (const one of attempt.slice(Math.min(from, to), Math.max(from, to) + 1)) if (isSeen(one)) now.add(one);
    choose(now);
  };
  const mark = () => {
    const now = chosen();
    for (const [position, entry] of cells) entry.setAttribute("aria-selected", String(now.has(position)));
    if (chosenTold) { chosenTold.textContent = now.size ? `${now.size} chosen` : ""; clear.hidden = !now.size; }
  };

  const face = (parent, entry) => {
    if (entry.thumbnail) image(parent, entry.thumbnail, entry.alt);
    else {
      const box = make("span", parent, "dg-box");
      make("b", box, "", entry.word); make("span", box, "", entry.note);
    }
    if (entry.same) make("span", parent, "dg-same", "duplicate");
  };
  const draw = (cell, entry, row, column) => {
    const made = make("div", cell, `dg-entry dg-live-entry dg-${entry.kind}`);
    made.tabIndex = order.length ? -1 : 0; made.title = entry.title;
    made.setAttribute("role", "option"); made.setAttribute("aria-label", entry.title);
    made.dataset.position = entry.position; made.dataset.row = row; made.dataset.column = column;
    face(made, entry);
    const tick = press(made, "\u2713", "choose", () => toggle(entry.position));
    tick.className = "dg-tick"; tick.tabIndex = -1;
    if (entry.told) make("span", made, "dg-told", entry.told);
    made.addEventListener("click", event => {
      if (event.shiftKey) { event.preventDefault(); reach(entry.position); }
      else if (event.ctrlKey || event.metaKey) toggle(entry.position);
      else open(entry.position);
      focus(made);
    });
    cells.set(entry.position, made); order.push(entry.position);
  };
  const focus = entry => {
    const more = entry.closest("details");
    if (more) more.open = true;
    for (const other of cells.values()) other.tabIndex = -1;
    entry.tabIndex = 0; entry.focus();
  };

  const known = new Map();
  const unfold = (td, cell, row, column, n, m) => {
    const more = make("details", td, "dg-more");
    make("summary", more, "", `+${cell.n_more} more`);
    for (const entry of cell.more) { known.set(entry.position, { entry, row, column }); draw(more, entry, n, m); }
    if (cell.beyond) make("div", more, "dg-beyond", cell.beyond);
  };
  const isSeen = position => !cells.get(position).closest("details:not([open])");
  const table = content => {
    const made = make("table", null), first = make("tr", make("thead", made));
    made.setAttribute("role", "listbox"); made.setAttribute("aria-multiselectable", "true");
    const names = make("th", first, "dg-names");
    make("span", names, "dg-down", content.down); make("span", names, "dg-across", content.across);
    for (const column of content.columns) {
      const th = make("th", first);
      references(th, column.references, ""); labels(th, column.labels);
    }
    const body = make("tbody", made);
    content.rows.forEach((row, n) => {
      const line = make("tr", body), th = make("th", line);
      references(th, row.references, ""); labels(th, row.labels);
      row.cells.forEach((cell, m) => {
        const td = make("td", line, cell.entries.length ? "" : "dg-none");
        td.dataset.column = content.columns[m].labels.join(", ");
        if (!cell.entries.length) { td.textContent = "\u2013"; td.title = "not in the table"; }
        for (const entry of cell.entries) {
          known.set(entry.position, { entry, row, column: content.columns[m] });
          draw(td, entry, n, m);
        }
        if (cell.n_more) unfold(td, cell, row, content.columns[m], n, m);
      });
    });
    return made;
  };
  const release = () => { urls.forEach(URL.revokeObjectURL, URL); urls = []; };
  const redraw = () => {
    const content = model.get("content");
    const shownAt = at; close();
    release(); cells = new Map(); order = []; known.clear();
    bar.replaceChildren(); head.replaceChildren(); scroll.replaceChildren();
    if (!content || !content.rows) return;
    root.style.setProperty("--dg-cell", `${content.cell}px`);
    if (content.title) make("b", bar, "", content.title);
    if (content.pages > 1) {
      const turn = by => model.send({ type: "turn", number: content.number + by });
      press(bar, "\u2190", "page before", () => turn(-1)).disabled = content.number <= 1;
      make("span", bar, "", `page ${content.number} of ${content.pages}`);
      press(bar, "\u2192", "next page", () => turn(1)).disabled = content.number >= content.pages;
    }
    if (content.live) press(bar, "refresh", "read the run anew", () => model.send({ type: "refresh" }));
    chosenTold = make("b", bar);
    clear = press(bar, "clear", "choose nothing", () => choose([]));
    make("span", bar, "dg-spring");
    make("span", bar, "dg-hint", "click: full picture \u00b7 tick, Space or Shift-click: choose \u00b7 arrows: move");
    references(head, content.references, "reference ");
    const told = make("div", head), keys = make("div", told, "dg-keys");
    for (const [kind, text] of content.counts) make("span", keys, `dg-key dg-${kind}`, text);
    if (content.extent) make("div", told, "dg-extent", content.extent);
    if (content.rows.length) scroll.append(table(content));
    else make("p", scroll, "", "nothing to show: the table has no rows");
    mark();
    if (shownAt !== null && known.has(shownAt)) open(shownAt);
  };

  const drop = () => { if (full) URL.revokeObjectURL(full); full = null; };
  const close = () => { drop(); at = null; if (dialog.open) dialog.close(); dialog.replaceChildren(); };
  const open = position => {
    const { entry, row, column } = known.get(position);
    drop(); at = position;
    dialog.replaceChildren();
    const zoom = make("div", dialog, "dg-zoom"), seen = make("div", zoom, `dg-seen dg-${entry.kind}`);
    if (entry.kind === "picture" && !entry.thumbnail) {
      make("img", seen).alt = entry.alt; model.send({ type: "full", position });
    } else if (entry.thumbnail) {
      const small = cells.get(position).querySelector("img").cloneNode();
      small.removeAttribute("width"); small.removeAttribute("height");
      seen.append(small); model.send({ type: "full", position });
    } else face(seen, entry);
    const words = make("div", zoom, "dg-words"), nav = make("nav", words);
    const step = by => { const to = order[order.indexOf(position) + by]; if (to !== undefined) open(to); };
    press(nav, "\u2190", "before", () => step(-1)); press(nav, "\u2192", "next", () => step(1));
    const pick = press(nav, "", "choose", () => { toggle(position); say(); });
    const say = () => { pick.textContent = chosen().has(position) ? "chosen \u2713" : "choose"; };
    say(); make("span", nav, "dg-spring"); press(nav, "close", "close", () => leave());
    const across = `${model.get("content").across} ${column.labels.join(" \u00b7 ")}`.trim();
    const name = [row.labels.join(" \u00b7 "), across];
    make("h4", words, "", name.filter(Boolean).join(", "));
    const list = make("dl", make("div", words, "dg-facts"));
    for (const [term, value] of entry.facts) { make("dt", list, "", term); make("dd", list, "", value); }
    if (!dialog.open) dialog.showModal();
  };
  const leave = () => { const was = at; close(); if (cells.has(was)) focus(cells.get(was)); };
  dialog.addEventListener("cancel", event => { event.preventDefault(); leave(); });
  dialog.addEventListener("click", event => { event.stopPropagation(); if (event.target === dialog) leave(); });

  const arrived = (message, buffers) => {
    if (message.type !== "full" || message.position !== at) return;
    const seen = dialog.querySelector(".dg-seen");
    if (!buffers || !buffers.length) { make("p", seen, "dg-told", "the file is gone or can't be read"); return; }
    drop();
    full = URL.createObjectURL(new Blob([buffers[0]], { type: message.media }));
    const picture = seen.querySelector("img");
    picture.src = full; picture.dataset.full = "true";
  };
  const moved = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const keys = event => {
    const way = moved[event.key];
    if (dialog.open) {
      if (!way) return;
      event.preventDefault(); event.stopPropagation();
      const to = order[order.indexOf(at) + way[0] + way[1]];
      if (to !== undefined) open(to);
      return;
    }
    const entry = event.target.closest(".dg-live-entry");
    if (!entry || event.target !== entry) return;
    const position = +entry.dataset.position;
    if (event.key === "Enter") open(position);
    else if (event.key === " ") toggle(position);
    else if (event.key === "Escape") choose([]);
    else if (way) {
      const all = [...cells.values()], row = +entry.dataset.row + way[0], column = +entry.dataset.column + way[1];
      const to = all.find(one => +one.dataset.row === row && +one.dataset.column === column);
      if (to) {
        if (event.shiftKey && anchor === null) anchor = position;
        focus(to);
        if (event.shiftKey) reach(+to.dataset.position);
      }
    } else return;
    event.preventDefault(); event.stopPropagation();
  };
  root.addEventListener("keydown", keys);
  model.on("change:content", redraw); model.on("change:chosen", mark); model.on("msg:custom", arrived);
  redraw();
  return () => {
    model.off("change:content", redraw); model.off("change:chosen", mark); model.off("msg:custom", arrived);
    close(); release();
  };
}
export default { render };
"""


FULL_BYTES_MAX: Final = 8_000_000
_FULL_PX: Final = 2_048
_MEDIA_TYPES: Final = ((b"\xff\xd8", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))


class GalleryWidget:
    """One widget of a gallery: keeps what it shows and what is chosen in step with it."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self.widget = _class()(content=gallery.content(), chosen=gallery.chosen)
        self.widget.observe(self._take_chosen, names="chosen")
        self.widget.on_msg(self._answer)

    def show_page(self) -> None:
        """Show the page that the gallery is turned to."""
        self.widget.content = self._gallery.content()

    def show_chosen(self, positions: Sequence[int]) -> None:
        """Show what is chosen."""
        self.widget.chosen = list(positions)

    def _take_chosen(self, change: Any) -> None:
        self._gallery.choose([position for position in change["new"] if isinstance(position, int)])

    def _answer(self, _: Any, message: Any, __: Any) -> None:
        """Answer the front end; what does not read as one of its questions is let go."""
        match message:
            case {"type": "turn", "number": int(number)} if 1 <= number <= self._gallery.n_pages:
                self._gallery.page(number)
            case {"type": "refresh"}:
                self._gallery.refresh()
            case {"type": "full", "position": int(position)} if 0 <= position < len(self._gallery.results):
                self._send_full(position)

    def _send_full(self, position: int) -> None:
        path = self._gallery.path_at(position)
        found = None if path is None else full(path)
        answer = {"type": "full", "position": position}
        if found is None:
            self.widget.send(answer)
        else:
            self.widget.send({**answer, "media": found[0]}, [found[1]])


def full(path: Path, *, bytes_max: int = FULL_BYTES_MAX) -> tuple[str, bytes] | None:
    """Read a picture for a browser, as it is, or a smaller JPEG of one that is too heavy or of another kind."""
    try:
        content = path.read_bytes() if path.stat().st_size <= bytes_max else b""
    except (OSError, ValueError):
        return None
    media = next((media for start, media in _MEDIA_TYPES if content.startswith(start)), None)
    if media is not None:
        return media, content
    picture = shown(path, _FULL_PX)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "image/jpeg", buffer.getvalue()


def is_possible() -> bool:
    """Say whether anywidget is installed."""
    try:
        import anywidget  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def _class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise UsageError(
            f"The widget needs anywidget ({error}): pip install 'dreamo-batch[gallery]'."
        ) from None

    class View(anywidget.AnyWidget):
        _esm = ESM
        _css = STYLE + WIDGET_STYLE
        content = traitlets.Dict().tag(sync=True)
        chosen: Any = traitlets.List().tag(sync=True)

    return View


__all__ = ["Gallery", "grid_html", "make_gallery"]

PAGE_ROWS: Final = 12
PAGE_COLUMNS: Final = 12
DISPLAY_BYTES_MAX: Final = 1_000_000
"""What the thumbnails that a notebook keeps may weigh."""
PAGE_BYTES_MAX: Final = 6_000_000
"""What those of a page of `to_html` may weigh, as JPEG."""
EMBEDDED_MAX: Final = 5_000
_FEW_BYTES: Final = 1_000
_thumbnails = Thumbnails()  # one for all galleries of the process, so that drawing again costs nothing


class Gallery:
    """A grid of pictures; made by `dreamo_batch.gallery`.

    A notebook shows it by itself: one page, which `page` turns. Rows of the results are chosen with `select`, or by
    clicks in the widget, and come back as `selection`.

    Attributes
    ----------
    results : pandas.DataFrame
        The results that it shows.
    grid : Grid
        The page shown.
    """

    def __init__(
        self,
        grid: Grid,
        run_dir: str | os.PathLike[str] | None,
        *,
        page_size: tuple[int, int],
        title: str = "",
        thumbnails: Thumbnails | None = None,
        reload: Callable[[], Grid] | None = None,
        notice: Callable[[pd.DataFrame], str] | None = None,
    ) -> None:
        self._whole = grid.whole()
        self._page_size = page_size
        self._number = 1
        self._thumbnails = thumbnails or _thumbnails
        self._run_dir = run_dir
        self._notice_of = notice
        self._find()
        self._reload = reload
        self._chosen: list[int] = []
        self._widget: GalleryWidget | None = None
        self.title = title
        self.grid = self._whole.page(1, *page_size)

    @property
    def results(self) -> pd.DataFrame:
        """The results that it shows."""
        return self._whole.results

    @property
    def run_dir(self) -> Path:
        """The run directory, of the first row where there are several."""
        return self._folders[0] if self._folders else run_dir_of(self.results, self._run_dir)

    @property
    def n_pages(self) -> int:
        """How many pages there are."""
        return self.grid.n_pages

    @property
    def chosen(self) -> list[int]:
        """Positions of the chosen rows."""
        return sorted(self._chosen)

    @property
    def selection(self) -> pd.DataFrame:
        """The chosen rows of the results, in the table's order."""
        return self.results.iloc[self.chosen]

    def select(self, rows: Collection[Any] | pd.Series | None) -> pd.DataFrame:
        """Choose rows; the widget shows them as chosen.

        Parameters
        ----------
        rows : collection, pandas.Series or None
            Index labels, or a boolean for every row. None: nothing.

        Returns
        -------
        pandas.DataFrame
            The chosen rows.

        Raises
        ------
        UsageError
            If a label is not in the table.
        """
        self.choose(np.flatnonzero(row_mask(self.results.index, [] if rows is None else rows)).tolist())
        return self.selection

    def choose(self, positions: Sequence[int]) -> None:
        """Choose rows by position."""
        self._chosen = [
            position for position in dict.fromkeys(positions) if 0 <= position < len(self.results)
        ]
        if self._widget is not None:
            self._widget.show_chosen(self.chosen)

    def page(self, number: int) -> Gallery:
        """Turn to a page, those across first.

        Parameters
        ----------
        number : int
            From 1 to `n_pages`.

        Returns
        -------
        Gallery
            This one.

        Raises
        ------
        UsageError
            If there is no such page.
        """
        self.grid = self._whole.page(number, *self._page_size)
        self._number = number
        if self._widget is not None:
            self._widget.show_page()
        return self

    def refresh(self) -> Gallery:
        """Read the run directory anew; of a gallery that was made from one, also while it is worked on.

        Returns
        -------
        Gallery
            This one, on the same page if that is still there; what was chosen stays chosen, by position.

        Raises
        ------
        UsageError
            If it was made from a table.
        DirectoryError
            If the directory can't be read.
        """
        if self._reload is None:
            raise UsageError(
                "only a gallery that was made from a run directory can be read anew: gallery(run_dir)."
            )
        self._whole = self._reload()
        self._find()
        self._chosen = [position for position in self._chosen if position < len(self.results)]
        return self.page(min(self._number, self._whole.page(1, *self._page_size).n_pages))

    def widget(self) -> Any:
        """Give the widget, which turns pages, shows full pictures, and lets rows be chosen by clicks and keys.

        Returns
        -------
        anywidget.AnyWidget
            The same each time; what is chosen in it is `selection`.

        Raises
        ------
        UsageError
            If anywidget is not installed (extra `gallery`).
        """
        if self._widget is None:
            self._widget = GalleryWidget(self)
        return self._widget.widget

    def content(self) -> dict[str, Any]:
        """Describe the page shown, for the widget."""
        pictures, where = self.pictures(self.grid, DISPLAY_BYTES_MAX)
        is_live = self._reload is not None
        return content_of(
            self.grid,
            pictures,
            where,
            number=self._number,
            title=self.title,
            notice=self._notice,
            is_live=is_live,
        )

    def fragment(
        self, *, bytes_max: int = DISPLAY_BYTES_MAX, is_open: bool = True, progress: bool = False
    ) -> str:
        """Draw the page shown as HTML that can stand within another page: no script, nothing from outside.

        Parameters
        ----------
        bytes_max : int
            What its thumbnails may weigh together, as JPEG; base64 makes it a third more.
        is_open : bool
            Whether cells can be unfolded.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        str
            One `div` with its own styles.
        """
        pictures, where = self.pictures(self.grid, bytes_max, progress=progress)
        return grid_html(self.grid, pictures, where, heading=self.title, notice=self._notice, is_open=is_open)

    def pictures(
        self,
        grid: Grid,
        bytes_max: int,
        link: Callable[[Entry], str | None] | None = None,
        *,
        progress: bool = False,
    ) -> tuple[Pictures, Beside]:
        """Make what a page shows small, within a weight for all of it together."""
        n_max = max(1, min(EMBEDDED_MAX, bytes_max // _FEW_BYTES))
        first = [entry for entry in grid.shown(n_max=IN_CELL_MAX) if entry.kind == PICTURE]
        unfolded = grid.shown(n_first=IN_CELL_MAX, n_max=UNFOLDED_MAX)
        there = [*first, *(entry for entry in unfolded if entry.kind == PICTURE)][:n_max]
        where = beside(grid, self._references)
        each = max(_FEW_BYTES, min(BYTES_MAX, bytes_max // max(1, len(there) + len(where.all))))
        made = self._thumbnails.of_files(
            [self.path_of(entry) for entry in there],
            bytes_max=each,
            digests=[entry.digest for entry in there],
            progress=progress,
        )
        shown = {entry.position: small for entry, small in zip(there, made, strict=True) if small is not None}
        references = {one.key: one.picture(self._thumbnails, each) for one in where.all}
        links = {} if link is None else self._links(grid, link)
        pictures = Pictures(
            of_entries=shown,
            of_references={key: small for key, small in references.items() if small is not None},
            links=links,
            omitted=self._omitted(grid, {entry.position for entry in there}),
        )
        return pictures, where

    def _links(self, grid: Grid, link: Callable[[Entry], str | None]) -> dict[int, str]:
        shown = (entry for entry in grid.shown(n_max=UNFOLDED_MAX) if entry.kind == PICTURE)
        return {entry.position: found for entry in shown if (found := link(entry))}

    def _omitted(self, grid: Grid, embedded: Collection[int]) -> frozenset[int]:
        """Name the pictures that are on disk and for which the page has no room."""
        others = (entry for entry in grid.shown() if entry.kind == PICTURE and entry.position not in embedded)
        return frozenset(entry.position for entry in others if is_there(self.path_of(entry)))

    def path_of(self, entry: Entry) -> Path:
        """Say where a picture is."""
        return self._folder_of(entry) / (entry.path or "")

    def _find(self) -> None:
        """Find where the pictures of the rows are, and their references."""
        self._folders = folders_of(self.results, self._run_dir)
        self._references = References(self.results, self._folders)
        self._notice = "" if self._notice_of is None else self._notice_of(self.results)

    def _folder_of(self, entry: Entry) -> Path:
        return self._folders[entry.position]

    def _names(self) -> str:
        return ", ".join(dict.fromkeys(folder.name for folder in [self.run_dir, *self._folders]))

    def path_at(self, position: int) -> Path | None:
        """Say where the picture of a row is; None if it has none."""
        entry = self._whole.entry(position)
        return None if entry.path is None else self.path_of(entry)

    @overload
    def to_html(self, path: None = None, *, link: bool | None = None, progress: bool = True) -> str: ...

    @overload
    def to_html(
        self, path: str | os.PathLike[str], *, link: bool | None = None, progress: bool = True
    ) -> Path: ...

    def to_html(
        self, path: str | os.PathLike[str] | None = None, *, link: bool | None = None, progress: bool = True
    ) -> str | Path:
        """Write a page of its own: all rows, no network, paged, filtered and enlarged by clicks and keys.

        Parameters
        ----------
        path : path-like, optional
            The file to write, replaced atomically.
        link : bool, optional
            Whether thumbnails lead to the full pictures, relative to the page. Default: where the page is written
            into the run directory, so that the two move together.
        progress : bool
            Show a bar while the thumbnails are made.

        Returns
        -------
        pathlib.Path, or str
            The file written, or without a path the page itself. Its thumbnails weigh 6 MB at most, so that they
            get smaller with their number; those after the first 5,000 are left out, and drawn as such.

        Raises
        ------
        UsageError
            If links are asked for without a path.
        OSError
            If it can't be written.
        """
        if path is None and link:
            raise UsageError("link=True: links are relative to the page, so give the path it is written to.")
        finder = None if path is None else linker(Path(path), self._folder_of, is_wanted=link)
        grid = self._whole
        pictures, where = self.pictures(grid, PAGE_BYTES_MAX, finder, progress=progress)
        page = page_html(
            grid_html(grid, pictures, where, notice=self._notice),
            title=self.title or self._names(),
            page_size=self._page_size,
        )
        if path is None:
            return page
        files.replace(Path(path), lambda temporary: temporary.write_text(page, encoding="utf-8"))
        return Path(path)

    def __repr__(self) -> str:
        """Say what it shows, without a picture."""
        n_rows, n_columns = self._whole.shape
        axes = f"{_axis(self._whole.rows.names)} by {_axis(self._whole.columns.names)}"
        where = f"page {self._number} of {self.n_pages}"
        return f"<gallery of {len(self.results)} rows: {n_rows} x {n_columns} cells, {axes}, {where}>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Show the widget, with the static page beside it for where there is none, as in a notebook read later."""
        static = {"text/plain": repr(self), "text/html": self._repr_html_()}
        if not is_possible():
            return static
        live = self.widget()._repr_mimebundle_()
        return {**(live[0] if isinstance(live, tuple) else live or {}), **static}

    def _repr_html_(self) -> str:
        """Show the page in a notebook without a widget, and say where the others are."""
        if self.n_pages == 1:
            return self.fragment()
        hint = f"page {self._number} of {self.n_pages}; .page(n) turns to another, .to_html(path) writes them all"
        return f"{self.fragment()}<p><small>{hint}</small></p>"


def make_gallery(
    results: pd.DataFrame,
    rows: Names = ...,
    across: Names = ...,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    page_rows: int = PAGE_ROWS,
    page_columns: int = PAGE_COLUMNS,
    title: str = "",
    reload: Callable[[], pd.DataFrame] | None = None,
    notice: Callable[[pd.DataFrame], str] | None = None,
) -> Gallery:
    """Lay results out as a gallery; see `dreamo_batch.gallery`."""
    for name, value in (("page_rows", page_rows), ("page_columns", page_columns)):
        if value < 1:
            raise UsageError(f"{name}={value}: a page has at least one.")

    def laid_out(table: pd.DataFrame) -> Grid:
        return lay_out(table, *axes.choose_axes(refuse_other_tables(table), rows, across))

    again = None if reload is None else lambda: laid_out(reload())
    return Gallery(
        laid_out(results),
        run_dir,
        page_size=(page_rows, page_columns),
        title=title,
        reload=again,
        notice=notice,
    )


def _axis(names: Sequence[str]) -> str:
    return " and ".join(names) or "one line"
