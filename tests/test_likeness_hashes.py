"""Hashes and thumbnails: values computed a second way, and what they do and don't see."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from dreamo_batch import likeness as comparing
from dreamo_batch.images import upright_rgb
from dreamo_batch.likeness import (
    Fingerprint,
    UnreadablePicture,
    appearance_likeness,
    distance,
    mean_delta_e,
    perceptual_hash,
    read,
    thumbnail,
    to_lab,
)
from tests.pictures import encoded, noisy, opened, plain, turned


def scene(side: int = 200) -> Image.Image:
    """A picture with shapes that are not symmetric."""
    picture = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((side // 10, side // 10, side // 2, side // 2), fill="orange")
    draw.rectangle((side // 2, side * 2 // 3, side * 9 // 10, side * 9 // 10), fill="navy")
    return picture.filter(ImageFilter.GaussianBlur(2))


def slow_hash(picture: Image.Image) -> int:
    """The definition of the hash, one sum after the other."""
    grey = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    level = [[grey.getpixel((x, y)) for x in range(32)] for y in range(32)]
    found = [
        sum(
            level[y][x] * math.cos(math.pi * v * (2 * y + 1) / 64) * math.cos(math.pi * u * (2 * x + 1) / 64)
            for y in range(32)
            for x in range(32)
        )
        for v in range(8)
        for u in range(8)
    ]
    submitted = sorted(found)
    median = (submitted[31] + submitted[32]) / 2
    return int("".join("1" if value > median else "0" for value in found), 2)


@pytest.mark.parametrize("picture", [scene(), scene(333), noisy(40, 90)], ids=["scene", "larger", "noise"])
def test_the_hash_is_that_of_its_definition(picture):
    """Matrices and loops give the same bits."""
    assert perceptual_hash(picture) == slow_hash(picture)


def test_the_hash_is_that_of_imagehash():
    """The bits are those that ImageHash 4.3.2 gives for these files."""
    known = {"data/coffee.jpg": "bb8320376c0f3637", "data/chelsea.jpg": "b15fe6465121175e"}
    for path, expected in known.items():
        with Image.open(path) as picture:
            assert f"{perceptual_hash(picture.convert('RGB')):016x}" == expected


def test_flat_pictures_have_one_hash_and_colours_tell_them_apart():
    """Rounding errors are no bits of their own; what the hash can't see, the thumbnail does."""
    one, other = Fingerprint.of(plain(colour=(200, 30, 30))), Fingerprint.of(plain(colour=(30, 200, 30)))
    assert one.bits == other.bits == 2**63
    assert next(comparing.distances([one, other])).delta_e[0] > 50


@pytest.mark.parametrize("quality", [95, 75, 40])
def test_compressing_and_scaling_change_next_to_nothing(quality):
    """A picture saved again as JPEG, or at half its size, looks the same."""
    picture = scene()
    again = opened(encoded(picture, "JPEG", quality=quality))
    half = picture.resize((100, 100), Image.Resampling.LANCZOS)
    block = next(comparing.distances([Fingerprint.of(picture), Fingerprint.of(again), Fingerprint.of(half)]))
    assert block.bits.max() <= 4
    assert block.delta_e.max() < 1.5


def test_a_mirrored_picture_is_another_one():
    """What stands elsewhere is seen by both."""
    block = next(
        comparing.distances(
            [Fingerprint.of(scene()), Fingerprint.of(scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
        )
    )
    assert block.bits[0] > 16
    assert block.delta_e[0] > 10


PLAIN = Fingerprint.of(plain())

# Lindbloom's values for sRGB under D65.
PRIMARIES = {
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (128, 128, 128): (53.59, 0.0, 0.0),
    (255, 255, 255): (100.0, 0.0, 0.0),
    (1, 1, 1): (0.274, 0.0, 0.0),
}


@pytest.mark.parametrize(("levels", "expected"), PRIMARIES.items(), ids=str)
def test_colours_are_those_of_the_tables(levels, expected):
    """L*a*b* of known sRGB colours, also on the straight part of both curves."""
    assert to_lab(np.array(levels, dtype=np.uint8)).tolist() == pytest.approx(expected, abs=0.03)


def test_delta_e_is_the_length_of_the_line_between_two_colours():
    """The distance of red and green of the tables, by hand."""
    red, green = (thumbnail(plain(colour=levels)) for levels in [(255, 0, 0), (0, 255, 0)])
    expected = math.dist(PRIMARIES[255, 0, 0], PRIMARIES[0, 255, 0])
    assert mean_delta_e(red, green) == pytest.approx(expected, abs=0.1)


def test_delta_e_is_a_mean_over_places():
    """A picture of which half has changed is half as far away."""
    one = Image.new("RGB", (64, 64), "white")
    half = one.copy()
    half.paste("black", (0, 0, 32, 64))
    assert next(comparing.distances([Fingerprint.of(one), Fingerprint.of(half)])).delta_e[0] == pytest.approx(
        50, abs=0.01
    )


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(1, 5))
def test_blocks_hold_every_pair_once(n, per_block):
    """However small the blocks are, each two pictures are compared once, with what they are by themselves."""
    draw = np.random.default_rng(n)
    made = [
        replace(
            PLAIN,
            bits=int(draw.integers(0, 2**63)),
            lab=draw.uniform(-100, 100, (3, 256)).astype(np.float32),
        )
        for _ in range(n)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "_BLOCK_ROWS", per_block)
        patch.setattr(comparing, "_TILE_BYTES", 256 * 4 * per_block * 3)
        blocks = list(comparing.distances(made))
    found = {
        (int(one), int(other)): (int(bits), float(delta_e))
        for block in blocks
        for one, other, bits, delta_e in zip(*block, strict=True)
    }
    assert sum(len(block.bits) for block in blocks) == len(found) == n * (n - 1) // 2
    for (one, other), (bits, delta_e) in found.items():
        assert bits == distance(made[one].bits, made[other].bits)
        apart = mean_delta_e(made[one].lab.T, made[other].lab.T)
        assert delta_e == pytest.approx(apart, rel=1e-4)


def test_a_fingerprint_is_read_as_it_was_written():
    """What is kept of a picture is as good as looking at it again."""
    kept = Fingerprint.of(scene())
    again = Fingerprint.from_bytes(kept.to_bytes())
    assert again.bits == kept.bits
    assert appearance_likeness(kept, again) > 0.999
    assert next(comparing.distances([kept, again])).delta_e[0] < 0.05


# Pictures as a person sees them.


def test_a_note_to_turn_is_obeyed():
    """A JPEG that lies on its side is stood up before it is looked at."""
    upright = upright_rgb(opened(turned(6)))
    assert upright.size == (40, 60)
    assert upright.getpixel((20, 5))[0] > 200 > upright.getpixel((20, 55))[0]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("I;16", (4, 4), 65535), (255, 255, 255)),
        (Image.new("I;16", (4, 4), 25700), (100, 100, 100)),
        (Image.new("I", (4, 4), 25700), (100, 100, 100)),
        (Image.new("P", (4, 4), 0), (0, 0, 0)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_every_mode_becomes_what_is_seen(picture, expected):
    """Transparency lies on white, 16 bits become 8, inks and greys become light."""
    assert upright_rgb(picture).getpixel((1, 1)) == expected


def test_a_palette_with_transparency_lies_on_white():
    """What a PNG or GIF leaves out is white."""
    picture = Image.new("P", (4, 4), 0)
    picture.info["transparency"] = 0
    assert upright_rgb(picture).getpixel((1, 1)) == (255, 255, 255)


def test_what_can_not_be_looked_at_says_why(tmp_path):
    """A picture that is gone, no file, altered, or damaged."""
    import hashlib

    cut = encoded(noisy(64, 64))[:200]
    (tmp_path / "cut.png").write_bytes(cut)
    (tmp_path / "folder").mkdir()
    digest = hashlib.sha256(cut).hexdigest()
    for name, sha256, why in [
        ("none.png", digest, "is gone"),
        ("folder", digest, "can't be read"),
        ("cut.png", "00", "was changed"),
        ("cut.png", digest, "can't be decoded"),
    ]:
        with pytest.raises(UnreadablePicture, match=why):
            read(tmp_path / name, sha256)
