"""Tables that say in a few words what they come to, above their rows; what is made from them is a plain DataFrame."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from dreamo_batch import columns
from dreamo_batch.text import NO_FORMULAS, harmless

if TYPE_CHECKING:
    from collections.abc import Mapping


_CHARACTERS_MAX: Final = 400
_TITLE_MAX: Final = 1_000
_ONE_LINE: Final = 16
_LONG: Final = 32
_SHORT: Final = {columns.JOB_ID: 10, columns.VALUE: 60}

# Colours that are told apart on white and on black; the words beside them say the same.
GOOD: Final = "#2e9e6b"
NEW: Final = "#3b8ec2"
PALE: Final = "#8a8f98"
OPEN: Final = "#b58900"
WARN: Final = "#d9822b"
BAD: Final = "#d1495b"

# Everything takes the page's own colours, so light and dark are alike; borders are see-through.
_STYLE: Final = """<style>
.dreamo-shown{font-size:13px;line-height:1.45;max-width:100%;overflow-x:auto}
.dreamo-shown p{margin:0 0 .4em;max-width:70em}
.dreamo-shown b{font-weight:600}
.dreamo-shown .chip{display:inline-block;margin:0 .9em .2em 0;white-space:nowrap}
.dreamo-shown .chip i{display:inline-block;width:.65em;height:.65em;border-radius:50%;margin-right:.4em}
.dreamo-shown table tr{background:none!important}
.dreamo-shown table{border-collapse:collapse;margin:.3em 0 .6em;font-size:12px;color:inherit}
.dreamo-shown table th,.dreamo-shown table td{text-align:left!important;vertical-align:top;padding:.25em .6em;border:0;
border-bottom:1px solid rgba(128,128,128,.28);white-space:nowrap;overflow-wrap:anywhere;
background:none!important;color:inherit}
.dreamo-shown table th{font-weight:600}
.dreamo-shown table td.some{white-space:normal;min-width:7em;max-width:14em}
.dreamo-shown table td.long{white-space:normal;min-width:13em;max-width:32em}
.dreamo-shown table td.number{text-align:right!important;font-variant-numeric:tabular-nums}
</style>"""


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows are of a kind, and the kind's colour."""

    word: str
    n: int
    colour: str


@dataclass(frozen=True, slots=True)
class Lead:
    """What a table comes to: a headline, counts by kind, and further sentences."""

    headline: str
    counts: tuple[Count, ...] = ()
    notes: tuple[str, ...] = ()

    def as_text(self) -> str:
        """Give one line for a terminal."""
        told = ", ".join(f"{count.n} {count.word}" for count in self.counts)
        return harmless(" ".join([self.headline, *([f"{told}."] if told else []), *self.notes]))

    def as_html(self) -> str:
        """Give the same as two lines of HTML."""
        chips = "".join(
            f'<span class="chip"><i style="background:{count.colour}"></i>'
            f"<b>{count.n:,}</b> {_escaped(count.word)}</span>"
            for count in self.counts
        )
        notes = " ".join(map(_escaped, self.notes))
        lines = (f"<b>{_escaped(self.headline)}</b>" + (f" {notes}" if notes else ""), chips)
        return "".join(f"<p>{line}</p>" for line in lines if line)


class Shown(pd.DataFrame):  # type: ignore[misc] # pandas has no types here
    """A DataFrame with a word above its rows; slices, copies, pickles and files of it are those of a plain one."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # type: ignore[no-any-return]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pd.DataFrame, (pd.DataFrame(self),)

    def __repr__(self) -> str:
        lead = self._lead()
        rows = super().__repr__()
        if lead is None:
            return str(rows)
        return f"{lead.as_text()}\n{rows}" if len(self) else lead.as_text()

    def _repr_html_(self) -> str | None:
        lead = self._lead()
        if lead is None or not pd.get_option("display.notebook_repr_html"):
            plain: str | None = super()._repr_html_()
            return plain
        return f'<div class="dreamo-shown {NO_FORMULAS}">{_STYLE}{lead.as_html()}{self._table_html()}</div>'

    # What may be said in a cell, and the colour of the dot before it.
    _colours: Mapping[str, str] = {}

    def _table_html(self) -> str:
        if not len(self):
            return ""
        names = [_escaped(harmless(str(name))) for name in (_index_name(self.index), *self.columns)]
        first, last, n_hidden = _shown_rows(len(self))
        rows = [self._row_html(place) for place in range(first)]
        if n_hidden:
            rows.append(f'<tr><td colspan="{len(names)}">… {n_hidden:,} more rows …</td></tr>')
        rows += [self._row_html(place) for place in range(len(self) - last, len(self))]
        head = "".join(f"<th>{name}</th>" for name in names)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def _row_html(self, place: int) -> str:
        cells = [self._cell_html(name, self[name].iloc[place]) for name in self.columns]
        return f"<tr><th>{_label(self.index[place])}</th>{''.join(cells)}</tr>"

    def _cell_html(self, name: object, value: Any) -> str:
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return "<td></td>"
        if isinstance(value, float):
            return f'<td class="number">{value:.6g}</td>'
        whole = harmless(str(value))
        told = shortened(self._told(name, whole), _SHORT.get(str(name), _CHARACTERS_MAX))
        colour = self._colours.get(whole)
        dot = f'<i style="color:{colour};font-style:normal">●</i> ' if colour else ""
        kind = ' class="long"' if len(told) > _LONG else ' class="some"' if len(told) > _ONE_LINE else ""
        title = f' title="{_escaped(whole[:_TITLE_MAX])}"' if told != whole else ""
        return f"<td{kind}{title}>{dot}{_escaped(told)}</td>"

    def _told(self, name: object, text: str) -> str:  # noqa: ARG002 - others leave something out
        """Give what a cell of a column is shown as."""
        return text

    def _lead(self) -> Lead | None:
        """Say what the table comes to; None if it can't be told any more, as after columns were taken out."""
        return None


def _shown_rows(n: int) -> tuple[int, int, int]:
    """Say how many rows are shown from the top, from the end, and not at all; by pandas' own options."""
    most = pd.get_option("display.max_rows") or n
    if n <= most:
        return n, 0, 0
    few = min(pd.get_option("display.min_rows") or most, most)
    return few - few // 2, few // 2, n - few


def shortened(text: str, n_max: int) -> str:
    """Cut a text to a length, and show that it was."""
    return text if len(text) <= n_max else text[: n_max - 1].rstrip() + "…"


def _label(label: object) -> str:
    told = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
    return _escaped(shortened(harmless(told), _SHORT[columns.VALUE]))


def _index_name(index: pd.Index) -> str:
    return ", ".join("" if name is None else str(name) for name in index.names).strip(", ")


def _escaped(text: str) -> str:
    return html.escape(text)
