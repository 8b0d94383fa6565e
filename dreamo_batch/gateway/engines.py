"""What makes the local gateway's pictures: what an engine is, how one is chosen, and the plain one for tests.

Neither of our two is DreamO, and every picture of theirs says so.
"""

from __future__ import annotations

import io
import json
import zlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Final, Protocol

from PIL import ExifTags, Image

from dreamo_batch.service import contract

ENGINES: Final = {
    "flat": "dreamo_batch.gateway.engines:Flat",
    "preview": "dreamo_batch.gateway.pictures:Preview",
}
DESCRIPTION: Final = "Local preview, not a real DreamO result"
# A character takes up to twelve bytes in JSON's ASCII (a surrogate pair), and a comment holds 65,533.
_PROMPT_CHARACTERS: Final = 5000
_N_COLOURS: Final = 24
_FORMATS: Final = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True, slots=True)
class RenderedPicture:
    """A finished picture: the file's bytes, their media type, and the size in pixels."""

    content: bytes
    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DrawRequest:
    """What to draw. The engines get the seed as drawn, a price function the seed as sent (-1 for a random one)."""

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
    """Makes pictures.

    An engine may also have these attributes.

    ``n_threads`` (int, default 1): threads that may call it at once.
    ``batch_size`` (int, default 1): with more, `generate_batch(requests, references)` gets lists of up to as many
    requests of one size, and returns as many pictures.
    ``device`` (str): where it runs, for people to read.
    ``warm_up()``: called before the gateway accepts connections, to load the model.
    """

    name: str

    def generate(self, request: DrawRequest, reference: bytes, *further: bytes) -> RenderedPicture | bytes:
        """Draw around the references (bytes of JPEG or PNG files); raise ValueError if one can't be read.

        A picture may be the bytes of a JPEG, PNG or WebP file.
        """
        ...


def engine_named(name: str) -> Engine:
    """Make the engine of this name, or that of a class of the user's, `package.module:Class`."""
    module, colon, attribute = ENGINES.get(name, name).partition(":")
    if not colon:
        choices = ", ".join(ENGINES)
        raise ValueError(f"No engine is called {name!r}; choose one of {choices}, or package.module:Class.")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"The engine {name} can't be loaded ({error}).") from error
    return check_engine(found() if isinstance(found, type) else found)


def check_engine(engine: Any) -> Engine:
    """Refuse an object that makes no pictures."""
    wanted = "generate_batch" if getattr(engine, "batch_size", 1) > 1 else "generate"
    if not callable(getattr(engine, wanted, None)):
        raise ValueError(f"{engine!r} is no engine: it has no method {wanted}().")  # noqa: TRY004 - as for a name
    made: Engine = engine
    return made


def as_picture(made: RenderedPicture | bytes) -> RenderedPicture:
    """Return a picture with its media type and size, which its bytes tell."""
    if isinstance(made, RenderedPicture):
        return made
    with Image.open(io.BytesIO(made), formats=_FORMATS) as image:
        return RenderedPicture(made, Image.MIME[image.format or ""], image.width, image.height)


class Flat:
    """Plain pictures: equal requests get equal bytes, different requests different ones."""

    name = "flat"
    n_threads = 2

    def generate(self, request: DrawRequest, reference: bytes, *further: bytes) -> RenderedPicture:
        """Return a JPEG of one colour."""
        hue = zlib.crc32(repr((request.seed, request.prompt)).encode()) % _N_COLOURS
        return labelled(self.name, _plain(request.width, request.height, hue), request, reference, *further)


@lru_cache(maxsize=128)
def _plain(width: int, height: int, hue: int) -> bytes:
    """Encode each colour and size once: it takes 10 ms at 1328x1328."""
    colour = Image.new("HSV", (1, 1), (hue * 255 // _N_COLOURS, 96, 224)).convert("RGB").getpixel((0, 0))
    return encoded(Flat.name, Image.new("RGB", (width, height), colour), quality=60)


def encoded(engine: str, image: Image.Image, quality: int) -> bytes:
    """Encode a picture as JPEG, with a word about where it comes from."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = DESCRIPTION
    exif[ExifTags.Base.Software] = f"dreamo-batch local gateway, engine {engine}"
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, exif=exif)
    return file.getvalue()


def labelled(engine: str, jpeg: bytes, request: DrawRequest, *references: bytes) -> RenderedPicture:
    """Add the request as a JPEG comment in JSON, behind the first segment, without encoding the file again."""
    own = ("ref_types", "guidance_scale1", "guidance_scale2")  # of one model only
    asked = {name: value for name, value in asdict(request).items() if name not in own or value}
    label = {"engine": engine, **asked, "reference_crc32": zlib.crc32(b"".join(references))}
    comment = json.dumps(label | {"prompt": request.prompt[:_PROMPT_CHARACTERS]}).encode()
    behind_app0 = 4 + int.from_bytes(jpeg[4:6], "big")
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    content = jpeg[:behind_app0] + segment + jpeg[behind_app0:]
    return RenderedPicture(content, "image/jpeg", request.width, request.height)
