"""How similar two pictures are: perceptual hashes, colours in CIE L*a*b* (D65), and scores of colour and shape.

sRGB becomes linear light and XYZ by IEC 61966-2-1, and L*a*b* by CIE 15. Delta E is that of CIE 1976, the length of the
line between two colours: about 2.3 is just noticeable, black and white are 100 apart.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image

from dreamo_batch.images import opened, upright_rgb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Colours and thumbnails.
SIDE_PX: Final = 16
_N_PLACES: Final = SIDE_PX**2
# Linear sRGB to XYZ; the rows add up to the white point D65.
_TO_XYZ: Final = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], dtype=np.float64
)
_WHITE_POINT: Final = _TO_XYZ.sum(axis=1)
_DELTA: Final = 6 / 29

# Perceptual hashes.
N_BITS: Final = 64
_HASHED_PX: Final = 32
_N_FREQUENCIES: Final = 8
_NOISE: Final = 1e-6  # in the coefficients, which are sums of levels from 0 to 255
_COSINES: Final = np.cos(
    np.pi * np.arange(_N_FREQUENCIES)[:, None] * (2 * np.arange(_HASHED_PX) + 1) / (2 * _HASHED_PX)
)
_WEIGHTS: Final = np.uint64(1) << np.arange(N_BITS - 1, -1, -1, dtype=np.uint64)

# Scores of colour and shape.
_SCORED_PX: Final = 64
_N_LEVELS: Final = 128
_FADE: Final = 25.0  # Delta E at which the colour score has fallen to 1/e
_N_CELLS: Final = 4
_N_DIRECTIONS: Final = 8
_FAINT: Final = 1.0  # L* difference over two pixels; below it is compression noise

# Sizes of the blocks in which many pictures are compared.
_BLOCK_BYTES: Final = 32 * 1024 * 1024
_BLOCK_ROWS: Final = 16
_TILE_BYTES: Final = 256 * 1024
_PAIR_BYTES: Final = 64  # positions, distances and intermediate values
_HASH_BYTES: Final = N_BITS // 8
_PARTS: Final = np.cumsum([3 * _N_PLACES, 3 * _N_LEVELS])


class UnreadablePicture(Exception):  # noqa: N818 - it names what happened to the picture
    """A picture that can't be read; the text says why."""


class Distances(NamedTuple):
    """Distances between pairs of pictures, given by position: bits and Delta E."""

    one: NDArray[np.intp]
    other: NDArray[np.intp]
    bits: NDArray[np.uint8]
    delta_e: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The features of a picture to compare."""

    bits: int  # a hash
    lab: NDArray[np.float32]  # a 16 x 16 thumbnail in L*a*b*
    levels: NDArray[np.float32]  # the sorted levels of L*, a* and b*, 3 x 128
    edges: NDArray[np.float32]  # the histogram of edges, 128

    @classmethod
    def of(cls, picture: Image.Image) -> Fingerprint:
        """Compute the fingerprint of a picture of mode RGB."""
        lab, scored = thumbnail(picture).reshape(_N_PLACES, 3), thumbnail(picture, _SCORED_PX)
        levels = np.sort(scored.reshape(-1, 3), axis=0).reshape(_N_LEVELS, -1, 3).mean(axis=1)
        edges = _edges(scored[..., 0]).astype(np.float32)
        lab, levels = np.ascontiguousarray(lab.T), np.ascontiguousarray(levels.T)
        return cls(perceptual_hash(picture), lab, levels, edges)

    def to_bytes(self) -> bytes:
        """Serialise in half precision, whose errors are about a hundredth of what is visible."""
        numbers = np.concatenate([self.lab.ravel(), self.levels.ravel(), self.edges])
        return self.bits.to_bytes(_HASH_BYTES, "big") + numbers.astype("<f2").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Fingerprint:
        """Read what `to_bytes` wrote."""
        numbers = np.frombuffer(content[_HASH_BYTES:], dtype="<f2").astype(np.float32)
        lab, levels, edges = np.split(numbers, _PARTS)
        bits = int.from_bytes(content[:_HASH_BYTES], "big")
        return cls(bits, lab.reshape(3, _N_PLACES), levels.reshape(3, _N_LEVELS), edges)


def read_content(path: Path, sha256: str) -> bytes:
    """Read the picture at a path if its bytes still have the known digest."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UnreadablePicture(f"{path.name} is gone") from None
    except OSError as error:
        raise UnreadablePicture(f"{path.name} can't be read ({error.strerror or error})") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadablePicture(f"{path.name} was changed")
    return content


def read(path: Path, sha256: str, *, side_px: int | None = None) -> Image.Image:
    """Open the picture at a path if its bytes still have the known digest."""
    content = read_content(path, sha256)
    try:
        with opened(io.BytesIO(content)) as picture:
            if side_px is not None:
                picture.draft(None, (side_px, side_px))  # only JPEG supports it; others are decoded fully
            return upright_rgb(picture)
    except Exception as error:  # noqa: BLE001 - decoders raise anything at all on damaged files
        raise UnreadablePicture(f"{path.name} can't be decoded ({error})") from None


def to_lab(levels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert sRGB levels of 0 to 255 into L*a*b*."""
    encoded = levels.astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004 - IEC
    xyz = linear @ _TO_XYZ.T / _WHITE_POINT
    f = np.where(xyz > _DELTA**3, np.cbrt(xyz), xyz / (3 * _DELTA**2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def thumbnail(picture: Image.Image, side_px: int = SIDE_PX) -> NDArray[np.float32]:
    """Scale a picture to a small square in L*a*b*, whatever its proportions."""
    return to_lab(np.asarray(picture.resize((side_px, side_px), Image.Resampling.BOX)))


def mean_delta_e(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the mean CIE 1976 difference of two thumbnails, place by place."""
    return float(np.linalg.norm(one - other, axis=-1).mean())


def perceptual_hash(picture: Image.Image) -> int:
    """Return the perceptual hash of a picture, that of ImageHash."""
    grey = picture.convert("L").resize((_HASHED_PX, _HASHED_PX), Image.Resampling.LANCZOS)
    low = _COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T
    low[np.abs(low) < _NOISE] = 0.0  # ignore rounding errors
    return int(_WEIGHTS[(low > np.median(low)).ravel()].sum(dtype=np.uint64))


def distance(one: int, other: int) -> int:
    """Count the bits in which two hashes differ, 0 to 64; unrelated pictures differ in about 32."""
    return (one ^ other).bit_count()


def colour_likeness(one: Fingerprint, other: Fingerprint) -> float:
    """Score from 0 to 1 how similar the colours and their amounts are, wherever they are."""
    # The Wasserstein distance of each channel's levels; the length of the three, in units of Delta E, fades as
    # exp(-distance / 25).
    distances = np.abs(one.levels - other.levels).mean(axis=1)
    return math.exp(-float(np.linalg.norm(distances) / _FADE))


def shape_likeness(one: Fingerprint, other: Fingerprint) -> float:
    """Score from 0 to 1 how similar the position and direction of edges are, whatever the colours."""
    # The cosine of two histograms of oriented gradients (Dalal and Triggs, 2005): 8 directions of the edges of L*,
    # weighted by their strength, in each of 4 x 4 parts. Proportions are ignored.
    lengths = float(np.linalg.norm(one.edges)), float(np.linalg.norm(other.edges))
    if not all(lengths):
        return float(not any(lengths))
    return min(1.0, float(one.edges @ other.edges) / (lengths[0] * lengths[1]))


def appearance_likeness(one: Fingerprint, other: Fingerprint) -> float:
    """Return the mean of the scores of colour and shape."""
    return (colour_likeness(one, other) + shape_likeness(one, other)) / 2


def _edges(lightness: NDArray[np.float32]) -> NDArray[np.float64]:
    down, across = np.gradient(lightness.astype(np.float64))
    strength = np.hypot(down, across)
    strength[strength < _FAINT / 2] = 0.0
    # Directions modulo half a turn: a dark line on a light ground equals a light line on a dark one.
    angle = np.mod(np.arctan2(down, across), np.pi)
    direction = np.rint(angle / np.pi * _N_DIRECTIONS).astype(int) % _N_DIRECTIONS
    part = np.arange(_SCORED_PX) * _N_CELLS // _SCORED_PX
    numbers = (part[:, None] * _N_CELLS + part[None, :]) * _N_DIRECTIONS + direction
    weights = strength.ravel().astype(np.float64)
    return np.bincount(numbers.ravel(), weights, minlength=_N_CELLS**2 * _N_DIRECTIONS).astype(np.float64)


def distances(pictures: Sequence[Fingerprint]) -> Iterator[Distances]:
    """Compare all pairs of pictures, in blocks of bounded size."""
    bits = np.array([picture.bits for picture in pictures], dtype=np.uint64)
    lab = np.stack([item.lab for item in pictures]) if pictures else np.empty((0, 3, _N_PLACES), np.float32)
    n_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (_PAIR_BYTES * max(1, len(pictures)))))
    for start in range(0, len(pictures) - 1, n_rows):
        stop = min(start + n_rows, len(pictures) - 1)
        first, second = np.triu_indices(stop - start, 1, len(pictures) - start)
        near = np.bitwise_count(bits[start:stop, None] ^ bits[None, start:])
        far = _delta_e(lab[start:stop], lab[start:])
        yield Distances(first + start, second + start, near[first, second], far[first, second])


def _delta_e(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean Delta E between all of two sets, in tiles of the size of the processor's cache."""
    mean = np.empty((len(ones), len(others)), dtype=np.float32)
    n_columns = max(1, _TILE_BYTES // (4 * _N_PLACES * max(1, len(ones))))
    for start in range(0, len(others), n_columns):
        tile = others[start : start + n_columns]
        squares = np.square(ones[:, None, 0] - tile[None, :, 0])
        for channel in (1, 2):
            step = ones[:, None, channel] - tile[None, :, channel]
            squares += np.square(step, out=step)
        np.sqrt(squares, out=squares).mean(axis=-1, out=mean[:, start : start + n_columns])
    return mean
