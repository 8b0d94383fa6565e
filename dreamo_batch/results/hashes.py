"""A perceptual hash: 64 bits that stay the same when a picture is scaled or compressed again.

The picture is made grey and scaled to 32 x 32 (Lanczos), its two-dimensional DCT-II is taken, and each of the 8 x 8
lowest frequencies gives one bit: whether it is above the median of the 64 (Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", 2010, and the package ImageHash, whose `phash` gives the same bits). Colour is not
seen, and a flat picture looks like any other flat one.

Examples
--------
>>> flat = [perceptual_hash(Image.new("RGB", (40, 40), name)) for name in ("red", "blue")]
>>> distance(*flat)
0
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

N_BITS: Final = 64
_SIDE_PX: Final = 32
_KEPT: Final = 8
_NOISE: Final = 1e-6  # of the coefficients, which are sums of levels of 0 to 255
_FREQUENCIES = np.arange(_KEPT)[:, None]
_PLACES = np.arange(_SIDE_PX)[None, :]
_COSINES: Final = np.cos(np.pi * _FREQUENCIES * (2 * _PLACES + 1) / (2 * _SIDE_PX))
_WEIGHTS: Final = np.uint64(1) << np.arange(N_BITS - 1, -1, -1, dtype=np.uint64)


def perceptual_hash(picture: Image.Image) -> int:
    """Give the hash of a picture.

    Parameters
    ----------
    picture : PIL.Image.Image
        Of mode RGB or L; what is not square is squeezed.

    Returns
    -------
    int
        64 bits, the lowest frequency in the highest bit, row by row.

    Examples
    --------
    >>> f"{perceptual_hash(Image.linear_gradient('L')):016x}"
    '8000800080008000'
    """
    grey = picture.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    low = _COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T
    low[np.abs(low) < _NOISE] = 0.0  # rounding errors would be bits of their own
    is_high = (low > np.median(low)).ravel()
    return int(_WEIGHTS[is_high].sum(dtype=np.uint64))


def distance(one: int, other: int) -> int:
    """Count the bits in which two hashes differ, 0 to 64; unrelated pictures differ in about 32.

    Examples
    --------
    >>> distance(0b1100, 0b1010)
    2
    """
    return (one ^ other).bit_count()
