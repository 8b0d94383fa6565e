"""Colours as people tell them apart: CIE 1976 L*a*b* under D65, and how far two of them are from each other.

sRGB is taken to linear light and to XYZ by IEC 61966-2-1, and on to L*a*b* by CIE 15. Differences are those of CIE 1976
(Delta E*ab), the length of the line between two colours: about 2.3 is the least that is noticed, black and white are
100 apart.

Examples
--------
>>> to_lab(np.array([[255, 255, 255], [0, 0, 0]], dtype=np.uint8)).round(1).tolist()
[[100.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE_PX: Final = 16
# Linear sRGB to XYZ; the rows add up to the white point D65.
_TO_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
_WHITE: Final = _TO_XYZ.sum(axis=1)
_DELTA: Final = 6 / 29


def to_lab(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn sRGB levels of 0 to 255 into L*a*b*.

    Parameters
    ----------
    levels : numpy.ndarray of uint8, shape (..., 3)
        Red, green and blue.

    Returns
    -------
    numpy.ndarray of float32, shape (..., 3)
        L* from 0 to 100, a* and b*.

    Examples
    --------
    >>> to_lab(np.array([255, 0, 0], dtype=np.uint8)).round().tolist()
    [53.0, 80.0, 67.0]
    """
    encoded = levels.astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC
    xyz = linear @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3 * _DELTA**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def thumbnail(picture: Image.Image, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Make a small square of a picture, in L*a*b*; what is not square is squeezed.

    Parameters
    ----------
    picture : PIL.Image.Image
        Of mode RGB.
    side_px : int
        Side of the square.

    Returns
    -------
    numpy.ndarray of float32, shape (side_px, side_px, 3)

    Examples
    --------
    >>> thumbnail(Image.new("RGB", (64, 32), "white")).shape
    (16, 16, 3)
    """
    small = picture.resize((side_px, side_px), Image.Resampling.BOX)
    return to_lab(np.asarray(small))


def mean_delta_e(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Give the mean CIE 1976 difference of two thumbnails, place by place.

    Examples
    --------
    >>> white, black = (thumbnail(Image.new("RGB", (8, 8), name)) for name in ("white", "black"))
    >>> round(mean_delta_e(white, black), 3)
    100.0
    """
    return float(np.linalg.norm(one - other, axis=-1).mean())
