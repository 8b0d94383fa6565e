"""How plots look: colours that suit the background they are drawn on, in print and on dark pages alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

_LABEL_CHARACTERS: Final = 42
_BEYOND_FONT: Final = "\u0530"  # the font that comes with matplotlib has Latin, Greek and Cyrillic
_UNDRAWABLE: Final = "\u25a1"
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
    """Give axes to draw on, and the colours for their background.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        None: axes of a new figure, which pyplot knows nothing of.

    Returns
    -------
    tuple of matplotlib.axes.Axes and Theme

    Raises
    ------
    UsageError
        If matplotlib is not installed.

    Examples
    --------
    >>> prepare(None)[1].ink
    '#222222'
    """
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
    ax.set_title(title, color=theme.ink, loc="left", fontsize="medium", parse_math=False)
    ax.set_xlabel(x, color=theme.ink)
    ax.set_ylabel(y, color=theme.ink)
    handles, names = ax.get_legend_handles_labels()
    if len(handles) > 1:
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": len(handles)}
        ax.legend(handles, names, frameon=False, labelcolor=theme.ink, fontsize="small", **below)
    return ax


def say_nothing(ax: Axes, theme: Theme, title: str) -> Axes:
    """Say that there is nothing to draw, rather than show empty axes."""
    ax.text(0.5, 0.5, "nothing to show", color=theme.ink, ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()
    return finish(ax, theme, title=title)


def name_lines(ax: Axes, labels: Sequence[Any]) -> None:
    """Label horizontal lines from the top down."""
    ax.set_yticks(range(len(labels)), [shortened(label) for label in labels], parse_math=False)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def shortened(label: object) -> str:
    """Make one short line of a label, of characters that can be drawn.

    Examples
    --------
    >>> shortened("a fox in   the snow, seen from far away and above"), shortened(float("nan"))
    ('a fox in the snow, seen from far away a...', '(none)')
    """
    text = "(none)" if label is None or label != label else " ".join(str(label).split())  # noqa: PLR0124 - NaN
    text = "".join(c if c.isprintable() and c < _BEYOND_FONT else _UNDRAWABLE for c in text)
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 3] + "..."


def _fresh() -> Axes:
    try:
        from dreamo_batch.results.figure import Sheet
    except ImportError as error:
        raise UsageError(f"Plots need matplotlib ({error}): pip install 'dreamo-batch[plots]'.") from None
    return Sheet().subplots()


def _theme(ax: Axes) -> Theme:
    """Choose by what is behind the axes; what is transparent shows the figure, and that a page taken as light."""
    from matplotlib.colors import to_rgba

    colours = [to_rgba(ax.get_facecolor()), to_rgba(ax.figure.get_facecolor())]
    behind = next((colour for colour in colours if colour[3] > _MIDDLE), None)
    if behind is None:
        return ON_LIGHT
    luminance = sum(weight * part for weight, part in zip(_LUMINANCE, behind, strict=False))
    return ON_LIGHT if luminance > _MIDDLE else _ON_DARK
