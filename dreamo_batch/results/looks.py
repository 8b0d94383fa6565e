"""How pictures look, small enough to compare thousands of them: a perceptual hash and a thumbnail in L*a*b*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from dreamo_batch.results import appearance, colours, hashes, pictures
from dreamo_batch.results.metric_cache import Cache, Key, Value
from dreamo_batch.table.looking import each

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from dreamo_batch.results.subjects import Subject

# Changed whenever the same picture would look otherwise.
_METRIC: Final = "look"
_VERSION: Final = "2"
_SIDE_PX: Final = 256  # a JPEG is decoded at the least fraction that is no smaller
_N_PLACES: Final = colours.SIDE_PX**2
_BLOCK_BYTES: Final = 32 * 1024 * 1024
_BLOCK_ROWS: Final = 16
_TILE_BYTES: Final = 256 * 1024
_N_PAIR_BYTES: Final = 64  # of positions, distances and what is between
_N_HASH_BYTES: Final = hashes.N_BITS // 8
_PARTS: Final = np.cumsum([3 * _N_PLACES, 3 * appearance.N_LEVELS])


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one picture: 64 bits, L*, a* and b* of 16 x 16 places, and what the built-in scores compare.

    Examples
    --------
    >>> from PIL import Image
    >>> Look.from_bytes(Look.of(Image.new("RGB", (8, 8), "white")).to_bytes()).lab.shape
    (3, 256)
    """

    bits: int
    lab: NDArray[np.float32]
    traits: appearance.Traits

    @classmethod
    def of(cls, picture: Image.Image) -> Look:
        """Look at a picture of mode RGB."""
        lab = colours.thumbnail(picture).reshape(_N_PLACES, 3)
        return cls(hashes.perceptual_hash(picture), np.ascontiguousarray(lab.T), appearance.traits(picture))

    def to_bytes(self) -> bytes:
        """Write it; numbers lose what is below a hundredth or so of what can be seen."""
        numbers = np.concatenate([self.lab.ravel(), self.traits.levels.ravel(), self.traits.edges])
        return self.bits.to_bytes(_N_HASH_BYTES, "big") + numbers.astype("<f2").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Look:
        """Read what `to_bytes` wrote."""
        numbers = np.frombuffer(content[_N_HASH_BYTES:], dtype="<f2").astype(np.float32)
        lab, levels, edges = np.split(numbers, _PARTS)
        made = appearance.Traits(levels.reshape(3, appearance.N_LEVELS), edges)
        return cls(int.from_bytes(content[:_N_HASH_BYTES], "big"), lab.reshape(3, _N_PLACES), made)


class Distances(NamedTuple):
    """Distances of pictures from `start` on to every one behind them: bits and Delta E, by pair of positions."""

    one: NDArray[np.intp]
    other: NDArray[np.intp]
    bits: NDArray[np.uint8]
    delta_e: NDArray[np.float32]


def look_at(
    subjects: Sequence[Subject | None],
    run_dir: Path,
    *,
    what: str = "looking",
    n_workers: int | None = None,
    progress: bool = True,
) -> tuple[dict[str, Look], dict[str, str]]:
    """Look at pictures, each once.

    Parameters
    ----------
    subjects : sequence of Subject or None
        The pictures.
    run_dir : pathlib.Path
        Where looks are kept.
    what : str
        Name of the bar.
    n_workers : int, optional
        Threads.
    progress : bool
        Show a bar.

    Returns
    -------
    dict of str to Look, dict of str to str
        By the picture's digest: how it looks, or why it can't be looked at.
    """
    cache = Cache(run_dir)
    by_digest: dict[str, Subject] = {}
    for subject in subjects:
        if subject is not None and not (
            subject.sha256 in by_digest and by_digest[subject.sha256].path.is_file()
        ):
            by_digest[subject.sha256] = subject  # of files with the same bytes one that is there
    looks, problems, wanted = {}, {}, []
    for subject in by_digest.values():
        known = cache.get(_key(subject))
        # A picture that is gone or was altered is not there to be compared, whatever is remembered of it.
        if known is not None and known.look is not None and subject.path.is_file():
            looks[subject.sha256] = Look.from_bytes(known.look)
        else:
            wanted.append(subject)
    try:
        for subject, seen in each(wanted, _seen, what=what, n_workers=n_workers, progress=progress):
            if isinstance(seen, Look):
                cache.put(_key(subject), Value(look=seen.to_bytes()))
                looks[subject.sha256] = Look.from_bytes(seen.to_bytes())  # as it will be read next time
            else:
                problems[subject.sha256] = seen
    finally:
        cache.save()
    return looks, problems


def distances(looks: Sequence[Look]) -> Iterator[Distances]:
    """Compare every two of many pictures, in blocks of bounded size.

    Examples
    --------
    >>> from PIL import Image
    >>> looks = [Look.of(Image.new("RGB", (64, 64), name)) for name in ("black", "white", "black")]
    >>> [block.delta_e.round(1).tolist() for block in distances(looks)]
    [[100.0, 0.0, 100.0]]
    """
    bits = np.array([look.bits for look in looks], dtype=np.uint64)
    lab = np.stack([look.lab for look in looks]) if looks else np.empty((0, 3, _N_PLACES), np.float32)
    n_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (_N_PAIR_BYTES * max(1, len(looks)))))
    for start in range(0, len(looks) - 1, n_rows):
        stop = min(start + n_rows, len(looks) - 1)
        one, other = np.triu_indices(stop - start, 1, len(looks) - start)
        near = np.bitwise_count(bits[start:stop, None] ^ bits[None, start:])
        far = _delta_e(lab[start:stop], lab[start:])
        yield Distances(one + start, other + start, near[one, other], far[one, other])


def _key(subject: Subject) -> Key:
    return Key(subject.sha256, "", _METRIC, _VERSION)


def _seen(subject: Subject) -> Look | str:
    try:
        return Look.of(pictures.read(subject.path, subject.sha256, side_px=_SIDE_PX))
    except pictures.Unseen as unseen:
        return str(unseen)


def _delta_e(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean Delta E of each of some to each of many; tile by tile, so that the processor's cache holds one."""
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
