"""The engines that make the local gateway's pictures: their protocol, how one is chosen, and two that only pretend.

`flat` is the plain one for tests; `preview` paints a scene from the prompt's words around the references. Neither is
DreamO, and every picture of theirs says so.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageDraw, ImageFilter, ImageFont, ImageOps

from dreamo_batch import files, images
from dreamo_batch.service import contract
from dreamo_batch.text import quoted

Rgb: TypeAlias = tuple[int, ...]

DESCRIPTION: Final = "Local preview, not a real DreamO result"
# A character takes up to twelve bytes in ASCII JSON (a surrogate pair), and a comment holds 65,533 bytes.
_PROMPT_CHARACTERS: Final = 5000
_N_COLOURS: Final = 24
SUFFIXES: Final = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}
_HOURS: Final = ("day", "day", "sunset", "sunset", "dawn", "night")
_ART: Final = files.toml_beside(__file__, "preview.toml")
_REFERENCE_PX_MAX: Final = 5000 * 5000
_PAINTED_PX: Final = 640 * 640
_JPEG_QUALITY: Final = 88
_WHITE: Final = (255, 255, 255)
_STYLE: Final = "STYLE"


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """What to draw; engines get the seed as drawn, a price function the seed as sent (-1 for a random one)."""

    prompt: str
    seed: int
    width: int
    height: int
    use_rephraser: bool
    model: str = contract.MODEL
    ref_types: tuple[str, ...] = ()
    guidance_scale1: float | None = None
    guidance_scale2: float | None = None


class Engine(Protocol):
    """Makes pictures; may also have these attributes.

    ``n_threads`` (int, default 1): threads that may call it at once.
    ``batch_size`` (int, default 1): with more, `generate_batch(requests, references)` gets lists of up to as many
    requests of one size, and returns as many pictures.
    ``device`` (str): where it runs, for people to read in the gateway's `repr`.
    ``warm_up()``: called before the gateway accepts connections, to load the model.
    """

    name: str

    def generate(self, request: DrawRequest, reference: bytes, *further: bytes) -> bytes:
        """Draw around the references (bytes of JPEG or PNG files); raise ValueError if one can't be read.

        Returns the bytes of a JPEG, PNG or WebP file.
        """


def engine_named(name: str) -> Engine:
    """Make an engine by its name, or by that of the user's class, `package.module:Class`."""
    if name in _ENGINES:
        return _ENGINES[name]()
    module, colon, attribute = name.partition(":")
    if not colon:
        choices = ", ".join(_ENGINES)
        raise ValueError(f"No engine is named {name!r}; choose one of {choices}, or package.module:Class.")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The engine {name} can't be loaded ({error}).") from error
    return check_engine(found)


def check_engine(engine: Any) -> Engine:
    """Return an engine, creating it if a class is passed; refuse objects that can't make pictures."""
    made: Engine = engine() if isinstance(engine, type) else engine
    for name in ("n_threads", "batch_size"):
        if not isinstance(n := getattr(made, name, 1), int) or n < 1:
            raise ValueError(f"The engine's {name} is {quoted(n)}; expected a whole number of at least 1.")
    wanted = "generate_batch" if getattr(made, "batch_size", 1) > 1 else "generate"
    if not callable(getattr(made, wanted, None)):
        raise ValueError(f"{quoted(engine)} isn't an engine: it has no {wanted}() method.")  # noqa: TRY004 - as for a name
    return made


def picture_suffix(made: bytes) -> str:
    """Return the suffix of the picture that an engine made; raise TypeError if it isn't a picture."""
    try:
        with images.pillow_settings, Image.open(io.BytesIO(made), formats=list(SUFFIXES)) as image:
            return SUFFIXES.get(image.format or "", ".jpg")  # MPO is JPEG, too
    except (TypeError, OSError):
        raise TypeError(f"the engine returned {type(made).__name__}, not a JPEG, PNG or WebP file") from None


class Flat:
    """Plain pictures: equal requests get equal bytes, different requests different ones."""

    name = "flat"
    n_threads = 2

    def generate(self, request: DrawRequest, reference: bytes, *further: bytes) -> bytes:
        """Return a JPEG of one colour."""
        hue = zlib.crc32(repr((request.seed, request.prompt)).encode()) % _N_COLOURS
        return labelled(self.name, _plain(request.width, request.height, hue), request, reference, *further)


@lru_cache(maxsize=128)
def _plain(width: int, height: int, hue: int) -> bytes:
    """Encode a plain picture, once for each colour and size: it takes 10 ms at 1328x1328."""
    colour = Image.new("HSV", (1, 1), (hue * 255 // _N_COLOURS, 96, 224)).convert("RGB").getpixel((0, 0))
    return _as_jpeg(Flat.name, Image.new("RGB", (width, height), colour), quality=60)


def _as_jpeg(engine: str, image: Image.Image, quality: int) -> bytes:
    """Encode a picture as JPEG, with EXIF tags that say where it comes from."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = DESCRIPTION
    exif[ExifTags.Base.Software] = f"dreamo-batch local gateway, engine {engine}"
    return images.encoded(image, quality=quality, exif=exif)


def labelled(engine: str, jpeg: bytes, request: DrawRequest, *references: bytes) -> bytes:
    """Add the request as a JSON comment to a JPEG, without re-encoding it."""
    own = ("ref_types", *contract.SCALES)  # of one model only
    asked = {name: value for name, value in asdict(request).items() if name not in own or value}
    label = {"engine": engine, **asked, "reference_crc32": zlib.crc32(b"".join(references))}
    comment = json.dumps(label | {"prompt": request.prompt[:_PROMPT_CHARACTERS]}).encode()
    return images.with_comment(jpeg, comment) or jpeg


class Preview:
    """Paints the prompt around the reference; equal requests with equal references get equal files."""

    name = "preview"
    n_threads = 2

    def generate(self, request: DrawRequest, reference: bytes, *further: bytes) -> bytes:
        """Paint a picture."""
        width, height = request.width, request.height
        loaded = [load_reference(content, max(width, height)) for content in (reference, *further)]
        kinds = request.ref_types or ("",) * len(loaded)
        styles = [one for one, kind in zip(loaded, kinds, strict=True) if kind == _STYLE]
        figures = [one for one, kind in zip(loaded, kinds, strict=True) if kind != _STYLE]
        rng = np.random.default_rng(_entropy(request.prompt, request.seed, request.use_rephraser))
        words = read_words(request.prompt)
        words.setdefault("scene", list(_ART["scenes"])[_entropy(request.prompt) % len(_ART["scenes"])])
        scale = min(1.0, (_PAINTED_PX / (width * height)) ** 0.5)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        painter = _Painter(size, rng, words)
        # The user's limit on pixels in this process would also limit what is drawn.
        with images.pillow_settings:
            image = painter.paint().resize((width, height), Image.Resampling.BICUBIC)
            for style in styles:
                image = Image.blend(image, _wash(style, image.size), 0.4)
            for number, figure in enumerate(figures):
                painter.put(image, figure, number, len(figures))
            _sign(image, banner(request.seed))
        return labelled(self.name, _as_jpeg(self.name, image, _JPEG_QUALITY), request, reference, *further)


_ENGINES: Final[dict[str, type[Engine]]] = {one.name: one for one in (Flat, Preview)}


def banner(seed: int) -> str:
    """Return the words written into the picture."""
    return f"local preview - not a real DreamO result · seed {seed}"


def read_words(prompt: str) -> dict[str, str]:
    """Return the first word of each kind in `preview.toml` that the prompt contains."""
    found: dict[str, str] = {}
    for match in _PATTERN.finditer(prompt.lower()):
        for kind, value in _MEANINGS[match["english"] or match["chinese"]]:
            found.setdefault(kind, value)
    return found


@lru_cache(maxsize=4)  # the rows of a table share few references
def load_reference(reference: bytes, side_px: int) -> Image.Image:
    """Decode a reference upright as RGBA, no larger than `side_px`; raise ValueError if it can't be read."""
    try:
        with images.opened(io.BytesIO(reference), pixels_max=_REFERENCE_PX_MAX) as file:
            file.draft("RGB", (side_px, side_px))
            picture = images.turned(images.in_eight_bits(file), images.orientation(file)).convert("RGBA")
    except Exception as error:  # Pillow raises almost anything for damaged files
        raise ValueError(
            f"The reference picture can't be read: {error}. Send a whole JPEG or PNG file."
        ) from error
    picture.thumbnail((side_px, side_px), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return picture


class _Painter:
    """Paints one scene: sky, sun or moon, the layers from back to front, and the weather."""

    def __init__(self, size: tuple[int, int], rng: np.random.Generator, words: dict[str, str]) -> None:
        self.width, self.height = size
        self.side, self.rng, self.words, self.scene = min(size), rng, words, words["scene"]
        hour = words.get("hour") or str(rng.choice(_HOURS))
        self.hour = hour = "night" if self.scene == "space" else hour
        *sky, sun = (self.hue(colour) for colour in str(rng.choice(_ART["skies"][hour])).split())
        light = _rgb(_ART["light"][hour])
        if tint := words.get("tint"):
            *sky, light = (_mix(part, _rgb(tint), 0.42) for part in (*sky, light))
        self.horizon, self.sun, self.light = sky[-1], sun, light
        self.image = _bands(size, sky)
        self.pen = ImageDraw.Draw(self.image, "RGBA")

    def paint(self) -> Image.Image:
        weather = self.words.get("weather")
        self.sky(weather)
        for place, layer in enumerate(layers := _ART["scenes"][self.scene].split(), 1):
            outline, colour, top, relief = layer.split(":")
            near = 0.5 + 0.5 * place / len(layers)
            hazy = _mix(self.horizon, self.lit(self.hue(colour)), near)
            self.layer(outline, hazy, float(top), float(relief))
        for x, y, near in self.spots(170) if weather in {"rain", "snow", "petals"} else ():
            reach = (0.004 + 0.006 * near) * self.side
            if weather == "rain":
                self.pen.line((x, y, x - reach * 1.5, y + reach * 7), fill=(220, 232, 255, 110), width=1)
            else:
                colour = (255, 255, 255, 210) if weather == "snow" else self.hue("f0a0a0", 25)
                self.pen.circle((x, y), reach * 0.6, colour)
        return self.image.filter(ImageFilter.GaussianBlur(0.7))

    def sky(self, weather: str | None) -> None:
        for x, y, size in self.spots(140) if self.hour == "night" else ():
            self.pen.circle((x, y * 0.9), size, self.sun)
        for x, y, _ in self.spots(7) if weather == "aurora" else ():
            self.glow((40, 225, 150), (x, y * 0.14 + 0.08 * self.height), self.side * 0.34)
        at = self.rng.uniform(0.12, 0.88) * self.width, self.rng.uniform(0.1, 0.42) * self.height
        radius = self.side * self.rng.uniform(0.05, 0.11)
        self.glow(self.sun, at, radius * 4)
        self.pen.circle(at, radius, self.sun)
        if self.hour != "night":
            self.clouds(9 if self.scene == "sky" else 3)

    def clouds(self, n_clouds: int) -> None:
        sheet = Image.new("L", self.image.size)
        pen = ImageDraw.Draw(sheet)
        for x, y, grown in self.spots(n_clouds):
            for k, puff in enumerate(self.rng.uniform(0.4, 1, 7)):
                r = puff * (0.03 + 0.035 * grown) * self.width
                a, b = x + (k - 3) * 0.05 * self.width * (0.5 + grown / 2), y * (0.35 + 0.06 * n_clouds)
                pen.ellipse((a - r * 1.5, b - r * 0.6, a + r * 1.5, b + r * 0.3), fill=215)
        soft = sheet.filter(ImageFilter.GaussianBlur(self.width / 160))
        self.image.paste(_mix(self.horizon, _WHITE, 0.6), (0, 0), soft)

    def layer(self, outline: str, colour: Rgb, top: float, relief: float) -> None:
        """Fill everything below an outline, lit from above."""
        x, draw = np.linspace(0, 1, 161), self.rng.uniform
        waves = sum(
            (np.sin(draw(0.6, 1.4) * 6.3 * n * x + draw(0, 6.3)) / n**1.2 for n in (1, 2, 3, 5, 8)), 0 * x
        )
        shape = 0.5 + waves / 4
        if outline == "peaks":
            crest = np.interp(x, np.linspace(0, 1, 9), draw(0, 1, 9))
            shape = crest * 0.8 + np.abs(waves) / 9 + draw(0, 0.07, x.size)
        elif outline == "trees":
            shape = shape * 0.55 + 0.45 * np.resize([0.0, 0.35, 1.0, 0.35], x.size) * draw(0.6, 1, x.size)
        elif outline == "towers":
            x, shape = np.repeat(x, 2)[1:], np.repeat(draw(0.05, 1, 27), 12)[:321]
        line = (top + relief * (0.5 - shape)) * self.height
        mask, first = Image.new("L", self.image.size), max(0, int(line.min()))
        edge = list(zip(x * self.width, line, strict=True))
        ImageDraw.Draw(mask).polygon([(0, self.height), *edge, (self.width, self.height)], fill=255)
        box = (0, first, self.width, self.height)
        shades = [_mix(colour, _WHITE, 0.1), _mix(colour, (20, 20, 50), 0.28)]
        self.image.paste(_bands((self.width, self.height - first), shades), box, mask.crop(box))
        for a, b, near in self.spots({"towers": 260, "water": 70}.get(outline, 0)):
            row = top * self.height + b * (1 - top)
            if outline == "water":
                reach = (0.02 + 0.1 * near) * a
                self.pen.line((a - reach, row, a + reach, row), _mix(colour, _WHITE, 0.35), 1 + int(2 * near))
            elif row > line[int(a / self.width * 320)] + 4:
                glass = _mix(colour, (255, 226, 150), 0.25 if self.hour in {"day", "dawn"} else 0.85)
                self.pen.rectangle((a, row, a + self.width * 0.006, row + self.height * 0.009), glass)

    def glow(self, colour: Rgb, at: tuple[float, float], radius: float) -> None:
        reach = max(2, round(radius))
        falloff = [round(150 * max(0.0, 1 - grey / 180) ** 2) for grey in range(256)]
        mask = Image.radial_gradient("L").resize((2 * reach, 2 * reach)).point(falloff)
        self.image.paste(colour, (round(at[0]) - reach, round(at[1]) - reach), mask)

    def spots(self, count: int) -> np.ndarray:
        """Draw random positions in the picture, each with a third number from 0 to 1."""
        return self.rng.random((count, 3)) * (self.width, self.height, 1)

    def hue(self, colour: str, degrees: float = 12) -> Rgb:
        """Return a colour with its hue turned by at most so many degrees."""
        hue, saturation, value = Image.new("RGB", (1, 1), _rgb(colour)).convert("HSV").tobytes()
        turned = int(hue + self.rng.uniform(-degrees, degrees) * 255 / 360) % 256, saturation, value
        return tuple(Image.new("HSV", (1, 1), turned).convert("RGB").tobytes())

    def lit(self, colour: Rgb) -> Rgb:
        return tuple(a * b // 255 for a, b in zip(colour, self.light, strict=True))

    def put(self, image: Image.Image, reference: Image.Image, number: int, n_figures: int) -> None:
        """Paste a reference: cut out if its background is transparent, else as a print with a white border."""
        rng, frame, floats = self.rng, self.words.get("frame"), self.scene in {"space", "sky"}
        alpha = reference.getchannel("A")
        box = alpha.point([255 * (grey > 8) for grey in range(256)]).getbbox()  # noqa: PLR2004 - nearly invisible
        is_card = box is None or alpha.getextrema()[0] == 255  # noqa: PLR2004 - opaque everywhere
        share = {"close": 0.92, "wide": 0.26}.get(frame or "", rng.uniform(0.42, 0.56))
        column = {"left": 0.27, "right": 0.73}.get(frame or "", rng.uniform(0.32, 0.68))
        foot = 1.04 if frame == "close" else rng.uniform(0.72, 0.8) if floats else rng.uniform(0.9, 0.94)
        turn = rng.uniform(-12, 12) if floats else rng.uniform(-4, 4) if is_card else 0.0
        wide = 0.96 if frame == "close" else 0.66
        if n_figures > 1:
            column, wide, share = (number + 0.5) / n_figures, 0.92 / n_figures, min(share, 0.5)
        figure = reference if is_card else reference.crop(box)
        room = share * min(image.height, 1.25 * image.width)
        scale = min(room / figure.height, wide * image.width / figure.width)
        size = max(1, round(figure.width * scale)), max(1, round(figure.height * scale))
        figure = figure.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        if is_card:
            edge = max(2, round(0.03 * max(size)))
            paper = Image.new("RGBA", size, (252, 250, 245, 255))
            paper.alpha_composite(figure)
            figure = ImageOps.expand(paper, edge, (252, 250, 245, 255))
        figure = figure.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        left = round(min(max(column * image.width - figure.width / 2, 0), max(0, image.width - figure.width)))
        if not floats:
            tall = max(2, figure.height // 14)
            shadow = Image.radial_gradient("L").point([max(0, 130 - grey) for grey in range(256)])
            top = round(foot * image.height - tall * 0.6)
            image.paste((14, 12, 34), (left, top), shadow.resize((figure.width, tall)))
        image.paste(figure, (left, round(foot * image.height) - figure.height), figure)


def _wash(style: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Spread the colours of a style reference over a picture."""
    few = images.on_white(style).resize((6, 6), Image.Resampling.BOX)
    return few.resize(size, Image.Resampling.BICUBIC)


def _sign(image: Image.Image, words: str) -> None:
    """Write small text into the lower left corner, on a translucent dark band."""
    size = max(11, round(min(image.size) * 0.0165))
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(words)
    pad = round(size * 0.6)
    pen = ImageDraw.Draw(image, "RGBA")
    band = pad, image.height - 3 * pad - size, round(right - left) + 3 * pad, image.height - pad
    pen.rounded_rectangle(band, radius=size / 2, fill=(10, 12, 24, 110))
    at = 2 * pad - left, (band[1] + band[3] - top - bottom) / 2
    pen.text(at, words, font=font, fill=(255, 255, 255, 225))


def _bands(size: tuple[int, int], colours: list[Rgb]) -> Image.Image:
    """Paint colours from top to bottom, blended into each other."""
    strip = Image.new("RGB", (1, len(colours)))
    strip.putdata(colours)
    return strip.resize(size, Image.Resampling.BICUBIC)


def _rgb(colour: str) -> Rgb:
    return ImageColor.getrgb(f"#{colour}")


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def _entropy(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:16])


_WORDS: Final = [
    (word, (kind, value))
    for kind, values in _ART["words"].items()
    for value, words in values.items()
    for word in words.split()
]
_MEANINGS: Final = {word: [meaning for kind, meaning in _WORDS if kind == word] for word, _ in _WORDS}


def _pattern() -> re.Pattern[str]:
    """Match the longest word; only Latin letters have word ends, as Chinese may follow without a space."""
    words = sorted(map(re.escape, _MEANINGS), key=len, reverse=True)
    english, chinese = ("|".join(word for word in words if word.isascii() == side) for side in (True, False))
    return re.compile(rf"(?<![a-z])(?P<english>{english})(?:s|es)?(?![a-z])|(?P<chinese>{chinese})")


_PATTERN: Final = _pattern()
