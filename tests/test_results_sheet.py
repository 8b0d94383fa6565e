"""The contact sheet: every saved picture once, labelled, whatever else is wrong."""

from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image

from dreamo_batch.results.sheet import contact_sheet

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def run_dir(tmp_path):
    for name, colour, size in (("red.png", RED, (64, 64)), ("blue.webp", BLUE, (128, 32))):
        Image.new("RGB", size, colour).save(tmp_path / name, lossless=True)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return tmp_path


def results(*paths, prompt="a fox"):
    return pd.DataFrame({"prompt": prompt, "scene": "snow", "seed_sent": 7, "output_path": list(paths)})


def colours(path, at_least=200):
    with Image.open(path) as sheet:
        counted = sheet.convert("RGB").getcolors(sheet.width * sheet.height)
    return {colour for n, colour in counted if n >= at_least}


def test_every_picture_is_shown_once(run_dir):
    """Two rows with one picture are one; rows without one, and damaged files, are left out."""
    table = results("red.png", "blue.webp", "red.png", None, "broken.jpg", "gone.png")
    assert contact_sheet(table, run_dir / "sheet.png", run_dir=run_dir) == 2
    assert {RED, BLUE} <= colours(run_dir / "sheet.png")


def test_nothing_to_show_is_no_file(run_dir):
    """Neither an empty sheet nor a half one is left behind."""
    assert contact_sheet(results("gone.png"), run_dir / "sheet.png", run_dir=run_dir) == 0
    assert not (run_dir / "sheet.png").exists()


@pytest.mark.parametrize(("n", "size"), [(1, (324, 364)), (4, (1260, 364)), (5, (1260, 716))])
def test_pictures_stand_four_across(run_dir, n, size):
    """A sheet is as wide as it needs to be."""
    for number in range(n):
        Image.new("RGB", (32, 32), RED).save(run_dir / f"{number}.png")
    contact_sheet(results(*(f"{number}.png" for number in range(n))), run_dir / "sheet.png", run_dir=run_dir)
    with Image.open(run_dir / "sheet.png") as sheet:
        assert sheet.size == size


@pytest.mark.parametrize("prompt", ["a fox " * 60, "雪山上的狐狸", "fox\n\x1b[31m", ""])
def test_any_prompt_can_stand_below(run_dir, prompt):
    """Long ones are cut, and what the font has no letters for is left out."""
    table = results("red.png", prompt=prompt)
    assert contact_sheet(table, run_dir / "sheet.png", run_dir=run_dir, labels=["scene", "prompt"]) == 1
    assert RED in colours(run_dir / "sheet.png")


def test_no_more_than_a_hundred(run_dir):
    """A sheet of a large run stays a picture that can be opened."""
    names = [f"{number}.png" for number in range(101)]
    for name in names:
        (run_dir / name).hardlink_to(run_dir / "red.png")
    assert contact_sheet(results(*names), run_dir / "sheet.png", run_dir=run_dir) == 100
