"""Draw the mascot of the examples: a fox with a scarf, `mascot.png` with alpha, 1024 x 1024 px.

Run `python data/draw_mascot.py [PATH]`; without a path it writes the `mascot.png` beside itself. Shapes are smooth
closed curves through a few points, drawn at three times the size and reduced, so that edges are smooth. The
same Pillow gives the same pixels; `SOURCES.csv` holds the digest of the file in the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE_PX = 1024
SCALE = 3  # drawn three times as large, then reduced

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[int, int, int]

FUR: Colour = (240, 126, 54)
FUR_DARK: Colour = (206, 88, 34)
FUR_LIGHT: Colour = (255, 164, 88)
CREAM: Colour = (255, 243, 226)
CREAM_DARK: Colour = (236, 206, 178)
SOCK: Colour = (82, 48, 46)
SOCK_LIGHT: Colour = (116, 70, 62)
INK: Colour = (46, 30, 36)
EAR: Colour = (178, 84, 66)
BLUSH: Colour = (255, 132, 108)
SCARF: Colour = (32, 142, 150)
SCARF_DARK: Colour = (18, 102, 116)
SCARF_LIGHT: Colour = (86, 190, 188)
STRIPE: Colour = (255, 214, 122)
WHITE: Colour = (255, 255, 255)


def main(path: Path) -> None:
    """Draw the fox and write it."""
    sheet = Image.new("RGBA", (SIDE_PX * SCALE, SIDE_PX * SCALE))
    for part in (_tail, _body, _scarf_end, _scarf, _ears, _head, _face):
        part(sheet)
    sheet.reduce(SCALE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size} bytes")


def _tail(sheet: Image.Image) -> None:
    tail = _blob("640,905 760,935 880,880 945,760 940,610 868,500 822,470 800,560 815,660 775,745 690,800")
    tip = _blob("948,640 935,560 868,492 812,440 790,520 796,590 812,640 846,615 872,660 908,625")
    below = _blob("600,940 760,985 915,900 985,740 960,640 900,760 830,850 700,880")
    _fill(sheet, tail, FUR)
    _shade(sheet, tail, below, FUR_DARK, 26)
    _fill(sheet, _both(tail, tip), CREAM)
    _shade(sheet, _both(tail, tip), _blob("960,660 960,560 900,480 905,560 900,640"), CREAM_DARK, 18)


def _body(sheet: Image.Image) -> None:
    body = _blob(
        "512,560 625,590 690,700 715,820 700,920 640,955 512,962 384,955 324,920 309,820 334,700 399,590"
    )
    _fill(sheet, body, FUR)
    _shade(sheet, body, _blob("640,560 760,700 760,960 600,990 660,900 672,800"), FUR_DARK, 30)
    _shade(sheet, body, _blob("420,870 604,870 620,990 404,990"), FUR_DARK, 20)
    _haunches(sheet, body)
    _legs(sheet, body)
    chest = _blob(
        "512,600 590,640 616,720 606,790 582,806 572,850 540,836 512,884 "
        "484,836 452,850 442,806 418,790 408,720 434,640"
    )
    _shade(sheet, body, _moved(chest, 0, 8), FUR_DARK, 10, alpha=150)
    _fill(sheet, chest, CREAM)
    _shade(sheet, chest, _blob("420,600 604,600 610,700 512,750 414,700"), CREAM_DARK, 22)


def _haunches(sheet: Image.Image, body: Image.Image) -> None:
    left = _blob("330,790 400,770 450,830 455,920 400,962 318,950 290,880")
    foot = _blob("300,935 345,905 410,905 448,940 430,975 320,977")
    for side in (_as_is, _mirrored):
        _shade(sheet, body, _moved(side(left), 0, -8), FUR_DARK, 12, alpha=110)
        _fill(sheet, side(left), FUR)
    _shade(sheet, left, _blob("320,780 390,770 420,810 350,830 310,880"), FUR_LIGHT, 18)
    _shade(sheet, _mirrored(left), _blob("690,760 760,860 720,990 600,990 690,900"), FUR_DARK, 20)
    for side in (_as_is, _mirrored):
        _fill(sheet, side(foot), SOCK)
        _shade(sheet, side(foot), _blob("300,905 724,905 724,930 300,930"), SOCK_LIGHT, 10)


def _legs(sheet: Image.Image, body: Image.Image) -> None:
    leg = _blob("436,720 500,724 506,860 504,950 480,976 438,974 424,946 430,860")
    sock = _both(leg, _blob("400,880 440,862 466,884 490,862 540,880 560,1000 380,1000"))
    toes = _blob("452,950 456,950 456,975 452,975")
    for side in (_as_is, _mirrored):
        _shade(sheet, body, _moved(side(leg), 0, 4), FUR_DARK, 12, alpha=190)
        _fill(sheet, side(leg), FUR)
        _fill(sheet, side(sock), SOCK)
        _shade(sheet, side(sock), side(_blob("430,925 500,925 500,945 430,945")), SOCK_LIGHT, 8, alpha=190)
        for toe in (toes, _moved(toes, 26, 0)):
            _fill(sheet, side(toe), INK)


def _scarf_end(sheet: Image.Image) -> None:
    end = _blob("600,640 664,650 690,720 716,812 700,834 640,842 612,830 606,740")
    _shade(sheet, _alpha(sheet), _moved(end, -6, 10), FUR_DARK, 12, alpha=130)
    _fill(sheet, end, SCARF)
    stripe = _blob("590,748 650,742 720,732 724,750 655,762 592,768")
    for top in (0, 48):
        _fill(sheet, _both(end, _moved(stripe, 0, top)), STRIPE)
    _shade(sheet, end, _blob("680,640 740,760 730,850 660,860 690,800 672,720"), SCARF_DARK, 16)


def _scarf(sheet: Image.Image) -> None:
    band = _blob(
        "350,600 420,632 512,642 604,632 674,600 694,640 676,690 600,722 512,732 424,722 348,690 330,640"
    )
    _shade(sheet, _alpha(sheet), _moved(band, 0, 14), FUR_DARK, 14, alpha=120)
    _fill(sheet, band, SCARF)
    _shade(sheet, band, _blob("330,590 694,590 690,650 512,684 334,650"), SCARF_DARK, 20)
    _shade(sheet, band, _blob("350,690 430,712 512,720 560,716 512,732 420,726"), SCARF_LIGHT, 8, alpha=170)
    knot = _blob("596,640 650,632 682,660 676,706 632,724 594,702")
    _shade(sheet, band, _moved(knot, -6, 6), SCARF_DARK, 8, alpha=200)
    _fill(sheet, knot, SCARF)
    _shade(sheet, knot, _blob("604,642 650,638 664,656 610,664"), SCARF_LIGHT, 8, alpha=180)


def _ears(sheet: Image.Image) -> None:
    ear = _blob("262,340 244,226 256,112 280,76 318,92 396,164 462,262 380,360")
    tip = _blob("200,180 262,190 300,168 352,150 352,40 220,40")
    inside = _blob("306,330 288,240 288,172 302,148 336,172 400,240 410,320")
    tuft = _blob("310,350 304,262 330,286 344,226 364,262 384,238 404,300 430,330")
    for side in (_as_is, _mirrored):
        _fill(sheet, side(ear), FUR)
        _fill(sheet, side(_both(ear, tip)), SOCK)
        _fill(sheet, side(inside), EAR)
        _shade(sheet, side(inside), side(_blob("290,140 330,160 420,260 380,250 310,200")), SOCK, 14)
        _fill(sheet, side(_both(inside, tuft)), CREAM)


def _head(sheet: Image.Image) -> None:
    head = _blob(
        "556,208 610,222 702,276 760,370 790,466 836,528 776,560 786,596 700,626 606,664 512,674 "
        "418,664 324,626 238,596 248,560 188,528 234,466 264,370 322,276 414,222 470,208 "
        "482,170 506,190 530,152 540,190 572,184"
    )
    _shade(sheet, _alpha(sheet), _moved(head, 0, 16), INK, 16, alpha=90)
    _fill(sheet, head, FUR)
    _shade(sheet, head, _blob("380,215 520,205 640,235 560,262 440,262 330,310"), FUR_LIGHT, 30, alpha=220)
    _shade(sheet, head, _blob("760,330 860,520 800,620 720,600 760,500"), FUR_DARK, 26, alpha=170)
    cheek = _blob("512,470 470,500 400,470 300,462 236,484 150,530 210,620 400,700 512,710")
    both = ImageChops.lighter(cheek, _mirrored(cheek))
    muzzle = _blob("512,410 556,440 580,520 600,700 424,700 444,520 468,440")
    mask = _both(head, ImageChops.lighter(both, muzzle))
    _fill(sheet, mask, CREAM)
    chin = _blob("300,640 512,662 724,640 760,600 700,720 324,720 264,600")
    _shade(sheet, mask, chin, CREAM_DARK, 22)


def _face(sheet: Image.Image) -> None:
    everywhere = _alpha(sheet)
    for x in (300, 724):
        _shade(sheet, everywhere, _oval(x, 556, 42, 24), BLUSH, 14, alpha=150)
    for x in (396, 628):
        _fill(sheet, _oval(x, 452, 40, 50), INK)
        _shade(sheet, _oval(x, 452, 40, 50), _oval(x, 486, 30, 18), (122, 70, 58), 8, alpha=200)
        _fill(sheet, _oval(x + 12, 432, 14, 17), WHITE)
        _fill(sheet, _oval(x - 14, 472, 6, 7), WHITE)
    brow = _blob("356,384 384,364 414,366 416,376 386,378 362,394")
    for side in (_as_is, _mirrored):
        _fill(sheet, side(brow), FUR_DARK)
    _fill(sheet, _blob("512,556 482,540 474,518 492,508 532,508 550,518 542,540"), INK)
    _fill(sheet, _oval(500, 519, 10, 5), (128, 104, 110))
    _stroke(sheet, [(512, 552), (512, 578)])
    smile = np.linspace(0, 2.5, 30)
    for way in (-1, 1):
        _stroke(sheet, [(512 + way * 29 * (1 - np.cos(t)), 578 + 27 * np.sin(t)) for t in smile])


def _blob(points: str) -> Image.Image:
    """Give a mask of the smooth closed curve through these points, written as in SVG: `x,y x,y ...`."""
    corners = np.array([point.split(",") for point in points.split()], dtype=float)
    mask = Image.new("L", (SIDE_PX * SCALE, SIDE_PX * SCALE))
    ImageDraw.Draw(mask).polygon(_curve(corners * SCALE), fill=255)
    return mask


def _curve(points: np.ndarray, steps: int = 24) -> list[Point]:
    """Closed Catmull-Rom curve: through every point, with the slope of its neighbours."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    a, b, c, d = (np.roll(points, shift, axis=0)[:, None, :] for shift in (1, 0, -1, -2))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


def _oval(x: float, y: float, radius_x: float, radius_y: float) -> Image.Image:
    mask = Image.new("L", (SIDE_PX * SCALE, SIDE_PX * SCALE))
    box = [(x - radius_x) * SCALE, (y - radius_y) * SCALE, (x + radius_x) * SCALE, (y + radius_y) * SCALE]
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def _stroke(sheet: Image.Image, points: list[Point], radius: float = 4) -> None:
    """Draw a line with round ends."""
    draw = ImageDraw.Draw(sheet)
    path = [(x * SCALE, y * SCALE) for x, y in points]
    draw.line(path, fill=INK, width=round(2 * radius * SCALE), joint="curve")
    for end in (path[0], path[-1]):
        draw.circle(end, radius * SCALE, fill=INK)


def _fill(sheet: Image.Image, mask: Image.Image, colour: Colour) -> None:
    box = mask.getbbox()  # most parts are small beside the sheet
    sheet.paste((*colour, 255), box, mask.crop(box))


def _shade(
    sheet: Image.Image,
    inside: Image.Image,
    mask: Image.Image,
    colour: Colour,
    blur_px: float,
    *,
    alpha: int = 200,
) -> None:
    """Lay a soft colour over what is inside, leaving the outline sharp."""
    blurred = mask.reduce(SCALE).filter(ImageFilter.GaussianBlur(blur_px))
    soft = _both(blurred.resize(mask.size, Image.Resampling.BILINEAR), inside).point(
        lambda value: value * alpha // 255
    )
    _fill(sheet, soft, colour)


def _both(one: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.multiply(one, other)


def _mirrored(mask: Image.Image) -> Image.Image:
    return mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _as_is(mask: Image.Image) -> Image.Image:
    return mask


def _moved(mask: Image.Image, x: int, y: int) -> Image.Image:
    return ImageChops.offset(mask, x * SCALE, y * SCALE)


def _alpha(sheet: Image.Image) -> Image.Image:
    return sheet.getchannel("A")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("mascot.png"))
