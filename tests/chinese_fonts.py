"""The machine's fonts with Chinese letters."""

from __future__ import annotations

import os

import pytest
from PIL import ImageFont

from dreamo_batch.fonts import machine_fonts


def chinese_fonts():
    """Return the font files that draw Chinese; skip the test where there is none."""
    found = [file for file in machine_fonts() if _drawn(file, "\u96ea") != _drawn(file, "\U0010fffe")]
    if not found:
        assert not os.environ.get("CI"), "continuous integration installs fonts-wqy-microhei"
        pytest.skip("this machine has no font with Chinese letters (Debian: fonts-wqy-microhei)")
    return found


def _drawn(file, letter):
    return bytes(ImageFont.truetype(file, 20).getmask(letter))
