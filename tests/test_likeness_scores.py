"""What the built-in likeness sees, and what it honestly does not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from dreamo_batch.results.measure import BUILT_IN
from tests.pictures import encoded, noisy, opened, plain

appearance, colour, shape = (BUILT_IN[name] for name in ("appearance", "colour", "shape"))


def figure(colour_of="orange", ground="white", size=(128, 128)) -> Image.Image:
    picture = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.polygon(
        [(width * 0.1, height * 0.9), (width * 0.3, height * 0.1), (width * 0.5, height * 0.9)],
        fill=colour_of,
    )
    return picture


@pytest.mark.parametrize("measure", [colour, shape, appearance])
def test_equal_pictures_score_one_and_others_less(measure):
    """The best is 1, whatever the size, and a picture saved again is close to it."""
    one = figure()
    assert measure(one, one) == pytest.approx(1.0)
    assert measure(one, figure(size=(256, 256))) > 0.93
    assert measure(one, opened(encoded(one, "JPEG", quality=75))) > 0.93
    assert measure(one, noisy(128, 128)) < 0.75


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_scores_are_between_0_and_1_and_do_not_depend_on_the_attempt(first, second):
    """Whatever the two pictures are."""
    one, other = (
        Image.frombytes("RGB", (4, 4), (seed.to_bytes(4, "big") * 12)).resize((40, 30))
        for seed in (first, second)
    )
    for measure in (colour, shape, appearance):
        value = measure(one, other)
        assert 0 <= value <= 1
        assert value == pytest.approx(measure(other, one))


def test_colour_does_not_see_where():
    """Mirrored, turned and shuffled pictures have the same colours."""
    one = figure()
    assert colour(one, ImageOps.mirror(one)) == pytest.approx(1.0, abs=0.02)
    assert colour(one, one.rotate(180)) == pytest.approx(1.0, abs=0.02)


def test_colour_fades_with_delta_e():
    """Two greys a known distance apart score as the formula says."""
    lighter, darker = plain(colour=(128, 128, 128)), plain(colour=(64, 64, 64))
    assert colour(lighter, darker) == pytest.approx(math.exp(-(53.585 - 27.093) / 25), abs=1e-3)


def test_shape_does_not_see_colour_but_mirrors():
    """The same figure in other colours is the same; mirrored it is another."""
    one = figure()
    assert shape(one, ImageOps.invert(one)) > 0.9
    assert shape(one, ImageOps.mirror(one)) < 0.6
    assert appearance(one, ImageOps.mirror(one)) < 0.85


def test_pictures_without_edges():
    """Two have the same shape, namely none; one beside a figure has nothing in common with it."""
    assert shape(plain(), plain(colour=(0, 0, 0))) == 1.0
    assert shape(plain(), figure()) == 0.0


def test_a_known_shortcoming_another_thing_of_the_same_make_scores_high():
    """It measures looks and not identity: the documentation says so, and so it is."""
    assert appearance(figure("orange"), figure("darkorange")) > 0.9
