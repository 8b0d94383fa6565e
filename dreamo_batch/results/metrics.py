"""Metrics: what likeness of a picture to its reference is measured with.

Examples
--------
>>> [metric.name for metric in read_metrics(["appearance", "shape"])]
['appearance', 'shape']
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch import columns
from dreamo_batch.errors import UsageError
from dreamo_batch.results import appearance

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

_NAMELESS: Final = "<lambda>"


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of likeness: any callable that takes reference and output, and gives a number.

    Both pictures are PIL images of mode RGB, upright, of whatever size they have. NaN or None means that there is
    nothing to measure, as with a face metric where no face is found. After an exception the value is missing, too.

    Attributes
    ----------
    name : str
        Name of the column.
    function : callable
        ``function(reference, output) -> float``; called from several threads unless `measure` is told otherwise.
    version : str or None
        Changed whenever values change. Values are kept in the run directory only under a version: without one, nobody
        could tell those of an older function.
    higher_is_better : bool
        Which way `rank` sorts.

    Examples
    --------
    >>> from PIL import Image
    >>> red = Image.new("RGB", (8, 8), "red")
    >>> def wider(reference, output):
    ...     return output.width / reference.width
    >>> Metric("wider", wider, version="1")(red, red)
    1.0
    """

    name: str
    function: Callable[[Image.Image, Image.Image], float | None]
    version: str | None = None
    higher_is_better: bool = True

    def __call__(self, reference: Image.Image, output: Image.Image) -> float | None:
        """Measure."""
        return self.function(reference, output)


BUILT_IN: Final = {
    metric.name: metric
    for metric in (
        Metric("appearance", appearance.appearance, "2"),
        Metric("colour", appearance.colour, "2"),
        Metric("shape", appearance.shape, "2"),
    )
}


# What the built-in ones come to where the traits of both pictures are known already.
COMPARED: Final = {
    "appearance": appearance.likeness,
    "colour": appearance.colour_likeness,
    "shape": appearance.shape_likeness,
}


def listed(one_or_several: Any) -> list[Any]:
    """Give a list of what may be one alone.

    Raises
    ------
    UsageError
        If it is neither one nor several.

    Examples
    --------
    >>> listed("shape"), listed(("shape", "colour"))
    (['shape'], ['shape', 'colour'])
    """
    if isinstance(one_or_several, str) or callable(one_or_several):
        return [one_or_several]
    try:
        return list(one_or_several)
    except TypeError:
        raise UsageError(f"{one_or_several!r} is neither a name nor a metric, nor several.") from None


def read_metric(metric: Any) -> Metric:
    """Read one metric: a built-in one's name, a `Metric`, or any callable that has a name.

    Raises
    ------
    UsageError
        If it is neither, or has no name to call its column by.

    Examples
    --------
    >>> read_metric("shape").name
    'shape'
    """
    if isinstance(metric, str) and metric in BUILT_IN:
        return BUILT_IN[metric]
    if isinstance(metric, Metric):
        return metric
    if not callable(metric):
        raise UsageError(
            f"{metric!r} is no metric: give one of {', '.join(map(repr, BUILT_IN))}, a Metric, or a function of "
            "reference and output."
        )
    name = getattr(metric, "name", None) or getattr(metric, "__name__", _NAMELESS)
    if name == _NAMELESS or not isinstance(name, str):
        raise UsageError(f"a metric needs a name for its column: give Metric(name, {metric!r}).")
    version = getattr(metric, "version", None)
    is_better = bool(getattr(metric, "higher_is_better", True))
    return Metric(name, metric, None if version is None else str(version), is_better)


def read_metrics(metrics: Any) -> list[Metric]:
    """Read several metrics, each of another name.

    Raises
    ------
    UsageError
        If one is no metric, a name is met twice, or a name is that of a column which stands beside them.

    Examples
    --------
    >>> read_metrics("appearance")[0].version
    '2'
    """
    read = [read_metric(metric) for metric in listed(metrics)]
    names = [metric.name for metric in read]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two metrics are called {name!r}; give each a name of its own: Metric(name, ...)."
            )
        if name in columns.MEASURES:
            raise UsageError(f"a metric can't be called {name!r}, as there is a column of that name.")
    return read
