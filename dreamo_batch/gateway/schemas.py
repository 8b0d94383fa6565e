"""What the local gateway accepts, as pydantic models, and the service's code for each problem."""

from __future__ import annotations

import binascii
import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, ClassVar, Final, NamedTuple, Self
from urllib.parse import urlsplit

from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dreamo_batch.gateway.engines import DrawRequest
from dreamo_batch.service import contract

MISSING_PROMPT, MISSING_IMAGE, PROMPT_LENGTH, INVALID = "003011001", "003011002", "003011003", "003011004"
_CODES: Final = {
    ("prompt", "missing"): MISSING_PROMPT,
    ("prompt", "string_too_short"): MISSING_PROMPT,
    ("prompt", "string_too_long"): PROMPT_LENGTH,
}

# The page states no maximum; this one exists so that the error for long prompts can occur.
PROMPT_CHARACTERS_MAX: Final = 10_000
URL_CHARACTERS_MAX: Final = 2048
N_DECODED: Final = 8

# By their first bytes; these classes read only the header, so a decompression bomb is never unpacked.
_FORMATS: Final = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}


@dataclass(frozen=True, slots=True)
class CreateReference:
    """The reference of a create; `digest` is the SHA-256 of its bytes, or of its URL's text."""

    digest: str
    url: str | None = None
    content: bytes | None = None


class Problem(NamedTuple):
    """What is wrong with a create: the service's code, the page's words for it, and details."""

    code: str
    message: str


def request_digest(request: DrawRequest, image: str) -> str:
    """Hash what a create asks for, so that tests can recognise equal creates."""
    description = {"image": image, **dataclasses.asdict(request)}
    canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Create:
    """A create that was read; if it has a problem, the first one, and no parameters."""

    request: DrawRequest
    references: tuple[CreateReference, ...]
    problem: Problem | None

    @property
    def digest(self) -> str:
        """The hash of what the create asks for."""
        return request_digest(self.request, " ".join(reference.digest for reference in self.references))


def read_header(content: bytes) -> tuple[int, int]:
    """Check a reference against the limits of the service's page, by its header only, and return its size in pixels."""
    if len(content) > contract.INPUT_BYTES_MAX.value:
        raise ValueError(f"the picture has {len(content)} bytes, more than {contract.INPUT_BYTES_MAX.value}")
    reader = next((reader for start, reader in _FORMATS.items() if content.startswith(start)), None)
    if reader is None:
        raise ValueError("the picture is neither JPEG nor PNG")
    try:
        with reader(BytesIO(content)) as image:
            width, height = image.size
    except Exception:  # noqa: BLE001 - Pillow raises almost anything for damaged files
        raise ValueError("the picture's header can't be read") from None
    if max(width, height) > (limit := contract.INPUT_SIDE_MAX_PX.value):
        raise ValueError(f"the picture is {width}x{height}, larger than {limit}x{limit} pixels")
    return width, height


def check_url(text: str) -> None:
    """Check that a reference may be fetched from a URL."""
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    # Clients interpret any other text differently.
    if not is_good or not text.isprintable() or " " in text or len(text) > URL_CHARACTERS_MAX:
        raise ValueError("image_urls must hold an http or https URL")
    if "@" in parts.netloc:
        raise ValueError("image_urls must not hold a user name or password")


def _by_url(value: Any) -> CreateReference:
    text = _text_of_item(value, "image_urls")
    check_url(text)
    return CreateReference(hashlib.sha256(text.encode()).hexdigest(), url=text)


def _by_base64(value: Any) -> CreateReference:
    text = _text_of_item(value, "binary_data_base64")
    if text.startswith("data:"):
        raise ValueError("binary_data_base64 must be bare, without a data: prefix")
    return _decoded(text)


# Cached: rows share few references, and decoding a large one blocks all threads for 20 ms.
@functools.lru_cache(maxsize=N_DECODED)
def _decoded(text: str) -> CreateReference:
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ValueError("binary_data_base64 is not base64") from None
    read_header(content)
    return CreateReference(hashlib.sha256(content).hexdigest(), content=content)


def _text_of_item(value: Any, name: str) -> str:
    if value == "":
        raise PydanticCustomError(MISSING_IMAGE, "the text is empty")
    if not isinstance(value, str):
        raise ValueError(f"{name} must be an array of strings")  # noqa: TRY004 - pydantic's rule
    return value


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        raise PydanticCustomError(MISSING_PROMPT, "the prompt is blank")
    return prompt


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_UrlItem = Annotated[CreateReference, BeforeValidator(_by_url)]
_Base64Item = Annotated[CreateReference, BeforeValidator(_by_base64)]


class Params(BaseModel):
    """The parameters of one picture that every model takes; see `PARAMS`."""

    model_config = ConfigDict(strict=True)
    rules: ClassVar[contract.Model]

    prompt: Annotated[
        str,
        Field(
            min_length=1, max_length=PROMPT_CHARACTERS_MAX, description="What to draw, Chinese or English."
        ),
        AfterValidator(_not_blank),
    ]
    image_urls: list[CreateReference]
    binary_data_base64: list[CreateReference]
    seed: Annotated[
        int,
        Field(ge=contract.SEED_RANDOM.value, le=contract.SEED_MAX.value, description="-1 for a random one."),
        BeforeValidator(_whole),
    ] = contract.SEED_RANDOM.value
    use_rephraser: bool
    width: int
    height: int

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.image_urls and not self.binary_data_base64:
            raise PydanticCustomError(MISSING_IMAGE, "there is no image")
        if self.image_urls and self.binary_data_base64:
            raise ValueError("exactly one of image_urls and binary_data_base64 must be given")
        limit, product = self.rules.side_max_px.value, self.rules.product_max_px.value
        if max(self.width, self.height) > limit and self.width * self.height >= product:
            raise ValueError(f"width or height beyond {limit} needs width*height below {limit}*{limit}")
        n_images, types = len(self.references), self.ref_types
        if types and len(types) != n_images:
            raise ValueError(f"{REF_TYPES} must be as long as the images: {len(types)} for {n_images}")
        return self

    @property
    def references(self) -> tuple[CreateReference, ...]:
        """The reference pictures."""
        return (*self.image_urls, *self.binary_data_base64)

    @property
    def ref_types(self) -> tuple[str, ...]:
        """The type of each reference picture, if the model takes types."""
        return tuple(getattr(self, REF_TYPES, None) or ())


def _params_of(model: contract.Model) -> type[Params]:
    """Make the parameters of one model from its facts."""
    most, limit = model.images_max.value, model.side_max_px.value
    side = Annotated[
        int,
        Field(
            ge=model.side_min_px.value,
            le=(model.product_max_px.value - 1) // model.side_min_px.value,
            description=f"Pixels; beyond {limit} only while width*height stays below its square.",
        ),
        BeforeValidator(_whole),
    ]
    n = "One" if most == 1 else f"1 to {most}"
    fields: dict[str, Any] = {
        "image_urls": _list_of(_UrlItem, most, f"{n} http or https URL; instead of binary_data_base64."),
        "binary_data_base64": _list_of(
            _Base64Item, most, f"{n} JPEG or PNG in base64; instead of image_urls."
        ),
        "use_rephraser": (
            Annotated[bool, Field(description="Let the service rewrite the prompt.")],
            model.use_rephraser_default.value,
        ),
        "width": (side, model.side_default_px.value),
        "height": (side, model.side_default_px.value),
    }
    if known := model.ref_types.value:
        words = Annotated[str, Field(pattern=f"^({'|'.join(known)})$")]
        fields[REF_TYPES] = _list_of(words, most, f"What each image is; default {known[0]}.")
    for name, scale in model.scales.items():
        limits = Field(
            ge=scale.low.value, le=scale.high.value, description=scale.meaning, allow_inf_nan=False
        )
        fields[name] = (Annotated[float | None, limits], scale.default.value)
    made: type[Params] = create_model(f"Params_{model.name}", __base__=Params, **fields)
    made.rules = model
    return made


def _list_of(item: Any, most: int, description: str) -> Any:
    is_empty = BeforeValidator(lambda value: [] if value is None else value)
    kind = Annotated[list[item], Field(max_length=most, description=description), is_empty]
    return kind, Field(default_factory=list)


REF_TYPES: Final = contract.REF_TYPES_PARAMETER.value
PARAMS: Final[dict[str, type[Params]]] = {name: _params_of(model) for name, model in contract.MODELS.items()}


class _Item(BaseModel):
    # Validated separately, so that a create with a bad parameter can be accepted as a task that fails.
    params: dict[str, Any]


class CreateRequest(BaseModel):
    """The body of a create; the context of its validation is the header X-Model."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    input: Annotated[list[_Item], Field(min_length=1, max_length=1)]

    @model_validator(mode="after")
    def _check_model(self, info: ValidationInfo) -> Self:
        if self.model and info.context and self.model != info.context:
            raise ValueError("model in the body and X-Model differ")
        self.model = self.model or info.context
        if self.model not in contract.MODELS:
            raise ValueError(f"model must be one of {', '.join(contract.MODELS)}")
        return self


def read_create(body: bytes, x_model: str | None = None) -> Create:
    """Read the body of a create; raise pydantic's ValidationError if it has no parameters."""
    whole = CreateRequest.model_validate_json(body, context=x_model)
    model, raw = whole.model or contract.MODEL, whole.input[0].params
    kind, problem = PARAMS[model], None
    try:
        params = kind.model_validate(raw)
    except ValidationError as error:
        params, problem = kind.model_construct(prompt=""), problem_of(error)
    request = DrawRequest(
        params.prompt,
        params.seed,
        params.width,
        params.height,
        params.use_rephraser,
        model,
        params.ref_types,
        **{name: getattr(params, name) for name in kind.rules.scales},
    )
    return Create(request, params.references, problem)


def problem_of(error: ValidationError) -> Problem:
    """Return the service's code for the first thing that pydantic found wrong."""
    first = error.errors(include_url=False, include_input=False)[0]
    kind = first["type"]
    field = next((str(part) for part in reversed(first["loc"]) if isinstance(part, str)), "body")
    code = kind if kind in contract.ERROR_CODES else _CODES.get((field, kind), INVALID)
    meaning, cause = contract.ERROR_CODES[code].meaning, first.get("ctx", {}).get("error")
    if code in (MISSING_PROMPT, MISSING_IMAGE):
        return Problem(code, meaning)
    detail = cause if isinstance(cause, ValueError) else f"{field}: {first['msg']}"
    return Problem(code, f"{meaning}: {detail}")
