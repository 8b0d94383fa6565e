"""How plots look: colours that suit the background they are drawn on, in print and on dark pages alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError
from dreamo_batch.results.lettering import Lettering

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """Give axes to draw on, and the colours for their background.

    Parameters
    ----------
    ax : matplotlib.axes.Axes or None
        None: axes of a new figure, which is pyplot's current one from then on.

    Returns
    -------
    tuple of matplotlib.axes.Axes and Theme

    Raises
    ------
    UsageError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> prepare(Figure().subplots())[1].ink
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
    """Make one short line of a label, of characters that can be drawn.

    Examples
    --------
    >>> shortened("a fox in   the snow, seen from far away and above"), shortened(float("nan"))
    ('a fox in the snow, seen from far away a...', '(none)')
    """
    text = "(none)" if label is None or label != label else " ".join(str(label).split())  # noqa: PLR0124 - NaN
    text = drawable(text)
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 3] + "..."


def drawable(text: str) -> str:
    """Put a box for every letter that no font here has.

    Examples
    --------
    >>> drawable("a fox"), drawable("\ue000")
    ('a fox', '□')
    """
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
