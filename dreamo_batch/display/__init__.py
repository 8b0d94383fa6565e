"""What people look at: the gallery, contact sheets, the live panel and the report."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS: Final = Path(__file__).parent / "assets"


@functools.cache
def templates() -> Environment:
    """Return the environment of the HTML templates, which escape every value."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("dreamo_batch.display"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
