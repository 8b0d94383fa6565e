"""The scenes, by the names that `vocabulary` gives them.

Examples
--------
>>> from dreamo_batch.local.preview.stage import set_up
>>> paint(set_up("a fox in the mountains", 42, 64, 48)).foot
0.94
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dreamo_batch.local.preview.scenes import cafe, city, coast, countryside, highland, reef, space, wide

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.preview.stage import Ground, Stage

_PAINTERS: Final[dict[str, Callable[[Stage], Ground]]] = {
    "mountain": highland.mountain,
    "lake": highland.lake,
    "snow": highland.snow,
    "forest": countryside.forest,
    "meadow": countryside.meadow,
    "village": countryside.village,
    "desert": wide.desert,
    "sky": wide.sky,
    "beach": coast.beach,
    "sea": coast.sea,
    "underwater": reef.underwater,
    "city": city.city,
    "space": space.space,
}


def paint(stage: Stage) -> Ground:
    """Paint the scene that the prompt asks for.

    Parameters
    ----------
    stage : Stage
        Its canvas is painted over.

    Returns
    -------
    Ground
        Where the figure stands.

    Examples
    --------
    >>> from dreamo_batch.local.preview.stage import set_up
    >>> paint(set_up("a coral reef", 42, 64, 48)).floats
    True
    """
    if stage.reading.scene == "cafe":
        return cafe.cafe(stage, _PAINTERS.get(stage.reading.behind, city.city))
    return _PAINTERS[stage.reading.scene](stage)
