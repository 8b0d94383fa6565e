"""What the prompt says: scene, hour, weather, framing and more, from words in English and Chinese.

Where the prompt is silent, the prompt as a whole picks the scene and the seed the rest; words that are not known
still change the picture, since prompt and seed together feed the generator.

Examples
--------
>>> read("a fox on the beach at sunset", 42, use_rephraser=True).scene
'beach'
>>> read("雪山上的夜晚", 42, use_rephraser=True).hour
'night'
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from dreamo_batch.local.preview.vocabulary import MEANINGS, SCENES

if TYPE_CHECKING:
    from collections.abc import Iterable

# How often the seed picks each hour where the prompt names none.
_HOURS: Final = {"day": 0.34, "sunset": 0.26, "dawn": 0.14, "dusk": 0.13, "night": 0.13}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a prompt asks for, in the painters' words.

    `features` are those of weather, sights, season, framing and style, as "kind.value"; `entropy` stands for prompt,
    seed and switch as a whole; `behind` is a second scene named, seen through windows.

    Examples
    --------
    >>> read("rainy city, close-up", 1, use_rephraser=True).has("frame.close")
    True
    """

    scene: str
    behind: str
    hour: str
    features: frozenset[str]
    tint: float | None
    entropy: int

    def has(self, *features: str) -> bool:
        """Tell whether the prompt asks for any of these."""
        return not self.features.isdisjoint(features)

    def rng(self) -> np.random.Generator:
        """Give a fresh generator; equal readings give equal ones."""
        return np.random.default_rng(self.entropy)


def read(prompt: str, seed: int, *, use_rephraser: bool) -> Reading:
    """Read a prompt.

    Parameters
    ----------
    prompt : str
        English, Chinese or both; may be empty or without any word known.
    seed : int
        Decides what the prompt leaves open.
    use_rephraser : bool
        Another picture on than off, as with the service.

    Returns
    -------
    Reading

    Examples
    --------
    >>> read("a robot in a cafe by the sea", 3, use_rephraser=False).behind
    'sea'
    >>> read("一只猫在太空", 3, use_rephraser=False).scene
    'space'
    """
    entropy = _entropy(prompt, seed, use_rephraser)
    rng = np.random.default_rng(entropy)
    found = _features(prompt)
    # "Coffee by the sea" is at the sea; coffee alone is in a cafe.
    scenes = [value for scene in ("scene", "hint") for kind, value in found if kind == scene]
    hours = [value for kind, value in found if kind == "hour"]
    tints = [float(value) for kind, value in found if kind == "tint"]
    return Reading(
        scene=scenes[0] if scenes else SCENES[_entropy(prompt) % len(SCENES)],
        behind=scenes[1] if len(scenes) > 1 else str(rng.choice(("city", "mountain", "sea", "meadow"))),
        hour=hours[0] if hours else str(rng.choice(list(_HOURS), p=list(_HOURS.values()))),
        features=frozenset(f"{kind}.{value}" for kind, value in found),
        tint=tints[0] if tints else None,
        entropy=entropy,
    )


def _features(prompt: str) -> list[tuple[str, str]]:
    """Kinds and values in the order of the prompt's words, each once."""
    found: dict[tuple[str, str], None] = {}
    for match in _PATTERN.finditer(prompt.lower()):
        found.update(dict.fromkeys(MEANINGS[match["english"] or match["chinese"]]))
    return list(found)


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """The longest word wins; English words stand alone or with a plural's ending, Chinese ones anywhere."""
    longest_first = sorted(words, key=len, reverse=True)
    english = "|".join(re.escape(word) for word in longest_first if word.isascii())
    chinese = "|".join(re.escape(word) for word in longest_first if not word.isascii())
    # Word ends are those of Latin letters only: Chinese may follow an English word without a space.
    return re.compile(rf"(?<![a-z])(?P<english>{english})(?:s|es)?(?![a-z])|(?P<chinese>{chinese})")


def _entropy(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16])


_PATTERN: Final = _pattern(MEANINGS)
