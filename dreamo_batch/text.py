"""Other people's words, made fit to be shown."""

from __future__ import annotations

import re
from typing import Final

# Control characters (C0, C1, DEL), marks that turn the direction of writing, line separators, half characters.
_HARMFUL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


# Classes of HTML that a notebook does not look for formulas in: two amounts with a dollar sign would be set as one.
NO_FORMULAS: Final = "mathjax_ignore tex2jax_ignore"


def harmless(text: str) -> str:
    """Write out what would do something to a terminal instead of being shown."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
