"""Results tables for tests of grids, made on the spot."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from dreamo_batch import columns

if TYPE_CHECKING:
    from pathlib import Path

RED, BLUE, GREEN = (200, 0, 0), (0, 0, 200), (0, 150, 0)


def results(own: dict[str, Any], index: Any = None, **outputs: Any) -> pd.DataFrame:
    """Lay outputs beside columns of one's own, with the dtypes of results; what is not given is missing."""
    user = pd.DataFrame(own, index=index)
    given = {"status": "completed", "seed_sent": user.get("seed"), **outputs}
    table = pd.DataFrame({name: given.get(name) for name in columns.OUTPUTS}, index=user.index)
    return pd.concat([user, columns.typed(table, columns.OUTPUTS)], axis=1)


def draw(
    folder: Path, name: str, colour: tuple[int, int, int] = RED, size: tuple[int, int] = (64, 64)
) -> str:
    """Save a picture; gives its name."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)
    return name


class Page(HTMLParser):
    """What stands on a page: its elements with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def kinds(self):
        return [attrs["data-kind"] for _, attrs in self.elements if "data-kind" in attrs]
