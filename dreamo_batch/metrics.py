"""Metrics of identity: embeddings, the match of picture and prompt, and faces (extra ``identity``).

Pass one to `dreamo_batch.measure` or `dreamo_batch.rank`, or its name: ``"identity"``, ``"prompt_match"``, ``"face"``.

Examples
--------
>>> import dreamo_batch as dreamo
>>> [dreamo.metrics.Embedding().name, dreamo.metrics.PromptMatch().name, dreamo.metrics.Face().name]
['dinov2-small', 'prompt_match', 'face']
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import re
import unicodedata
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from PIL import Image

from dreamo_batch.arguments import check_count, file_path, is_number
from dreamo_batch.errors import UsageError
from dreamo_batch.files import toml_beside
from dreamo_batch.importing import load_extra
from dreamo_batch.text import first_line, joined, one_line, quoted

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

__all__ = ["Embedding", "Face", "PromptMatch"]


def __dir__() -> list[str]:
    return __all__


# Change this whenever the same picture and model would give a different vector.
_VERSION: Final = "1"
_PROVIDERS: Final = ("CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider")
_EXTRA: Final = "identity"
_DTYPES: Final = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int32)": np.int32}
_ANSWER_WITHIN_S: Final = 4.0
_REASON_MAX: Final = 600  # a runtime error begins with a position in the runtime's source

# YuNet and SFace, as OpenCV's FaceDetectorYN and FaceRecognizerSF use them (modules/objdetect/src of OpenCV 4 and 5).
_DETECTED_PX: Final = 640
_STRIDES: Final = (8, 16, 32)
_OVERLAP_MAX: Final = 0.3
_FACE_PX: Final = 112
# Where the eyes, the nose and the corners of the mouth are in an aligned face.
_LANDMARKS: Final = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


# Bounds on metrics.

_SIGNS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
_WRITTEN: Final = re.compile(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*")


@dataclass(frozen=True, slots=True)
class Criterion:
    """Whether a value of a metric is good enough."""

    metric: Any
    sign: str
    bound: float

    def __post_init__(self) -> None:
        try:
            number = float(self.bound)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise UsageError(f"A bound on a metric is a number, not {self.bound!r}.")
        object.__setattr__(self, "bound", number)

    def __call__(self, value: float | None) -> bool:
        """Return whether a value is good enough; a missing one never is."""
        return value is not None and not math.isnan(value) and _SIGNS[self.sign](value, self.bound)

    def __bool__(self) -> bool:
        """Refuse `0.2 <= metric <= 0.8`, of which Python would keep only the second bound."""
        raise UsageError("Bounds on metrics can't be chained or combined. Pass one bound, or a function.")


class Bounded:
    """Makes comparisons such as `metric >= 0.8` return a `Criterion`."""

    __slots__ = ()
    nothing: ClassVar[str] = "nothing to measure"

    def __ge__(self, bound: float) -> Criterion:
        return Criterion(self, ">=", bound)

    def __gt__(self, bound: float) -> Criterion:
        return Criterion(self, ">", bound)

    def __le__(self, bound: float) -> Criterion:
        return Criterion(self, "<=", bound)

    def __lt__(self, bound: float) -> Criterion:
        return Criterion(self, "<", bound)


def written(text: str) -> Criterion:
    """Parse a bound on a named metric, such as "appearance >= 0.8"."""
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise UsageError(f'Can\'t read {text!r}; write a metric, a sign and a number: "appearance >= 0.8".')
    return Criterion(match[1], match[2], match[3])  # type: ignore[arg-type] # Criterion parses the bound


# Models.

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = toml_beside(__file__, "metrics.toml")


class _Weights:
    """The files of a preset: in the user's folder, or fetched by revision and digest at first use."""

    def __init__(self, preset: str, kind: str, folder: str | os.PathLike[str] | None) -> None:
        self.preset = _preset(preset, kind)
        self.name = preset
        self._folder = None if folder is None else file_path("path", folder)
        self._files: Mapping[str, Mapping[str, str]] = self.preset["files"]

    def digest(self, *names: str) -> str:
        """Return a digest of files: from the preset, or computed from the files in the user's folder."""
        is_preset = self._folder is None
        digests = (self._files[name]["sha256"] if is_preset else _digest(self._find(name)) for name in names)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]

    def path(self, name: str) -> Path:
        """Return the path of a file, fetching it first if necessary."""
        if self._folder is not None:
            return self._find(name)
        wanted = self._files[name]
        hub = load_extra("huggingface_hub", f"The weights of {self.name!r} are fetched with", _EXTRA)
        given = (wanted["repository"], wanted["path"])
        try:
            if not isinstance(hub.try_to_load_from_cache(*given, revision=wanted["revision"]), str):
                _refuse_unreachable(hub.constants.ENDPOINT)
            path = Path(hub.hf_hub_download(*given, revision=wanted["revision"]))
        except Exception as error:  # the hub's errors are of many kinds: offline, refused, gone, a full disk
            raise UsageError(
                f"{given[1]} of {self.name!r} can't be fetched from {given[0]} on the Hugging Face hub "
                f"({first_line(error)}). On a machine without internet, put "
                f"{self._listed()} into a folder and pass path=FOLDER."
            ) from error
        if _digest(path) != wanted["sha256"]:
            raise UsageError(
                f"{path} isn't the file that {self.name!r} was made with (SHA-256 {wanted['sha256']} was expected). "
                "Delete it to fetch it again, or pass path=FOLDER to use files of your own."
            )
        return path

    def _find(self, name: str) -> Path:
        assert self._folder is not None  # noqa: S101 - checked by both callers
        inner = Path(self._files[name]["path"])
        for path in (self._folder / inner, self._folder / inner.name):
            if path.is_file():
                return path
        if self._folder.is_file():
            raise UsageError(f"path={str(self._folder)!r} is a file; pass the folder that it is in.")
        raise UsageError(f"There is no {inner.name} in {self._folder}. {self.name!r} needs {self._listed()}.")

    def _listed(self) -> str:
        places = [(file["path"], file["repository"]) for file in self._files.values()]
        return joined([f"{Path(path).name} (huggingface.co/{hub}, {path})" for path, hub in places])


def _preset(name: str, kind: str) -> Mapping[str, Any]:
    """Return a preset by name; refuse one without the kind of file that a metric needs."""
    able = [name for name, preset in PRESETS.items() if kind in preset["files"]]
    if name not in able:
        raise UsageError(f"{name!r} isn't a model for this. Pass one of {', '.join(map(repr, able))}.")
    return PRESETS[name]


@functools.lru_cache(maxsize=64)
def _digest_of_version(path: Path, _size: int, _changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of_version(path, status.st_size, status.st_mtime_ns)


def _refuse_unreachable(url: str) -> None:
    """Raise if a host doesn't answer: the hub's library would retry for half a minute."""
    import requests

    try:
        requests.head(url, timeout=_ANSWER_WITHIN_S, allow_redirects=False)
    except requests.exceptions.SSLError:
        return  # the library may trust other certificates
    except requests.RequestException as error:
        raise ConnectionError(f"can't connect to {url}") from error


@contextmanager
def _unusable(path: Path, how: str) -> Iterator[None]:
    """Turn any error of a library about a file into a one-line UsageError; they have no common class."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - see above
        raise UsageError(f"{path} can't be {how} ({one_line(error, _REASON_MAX)}).") from None


class _Network:
    """An ONNX model, loaded when it first runs."""

    def __init__(self, weights: _Weights, file: str) -> None:
        self._weights = weights
        self._file = file
        self._session: Any = None

    def run(self, outputs: Sequence[str], /, inputs: Mapping[str, Any] | NDArray[Any]) -> list[NDArray[Any]]:
        """Run the model on an array or on named inputs, ignoring names that it doesn't have."""
        session = self._loaded()
        dtypes = {argument.name: _DTYPES.get(argument.type) for argument in session.get_inputs()}
        with _unusable(self._path, f"run as the {self._file} model of {self._weights.name!r}"):
            given = inputs if isinstance(inputs, dict) else {next(iter(dtypes)): inputs}
            feed = {name: np.asarray(given[name], dtypes[name]) for name in given.keys() & dtypes.keys()}
            return [np.asarray(array, np.float32) for array in session.run(list(outputs) or None, feed)]

    def vectors(self, output: str, inputs: Mapping[str, Any] | NDArray[Any], n: int) -> list[Vector]:
        """Run the model and return its vector for each of `n` inputs."""
        found = self.run([output] if output else [], inputs)[0]
        # A transformer returns a vector for each patch; the one for the whole picture comes first.
        found = found[:, 0] if found.ndim == 3 else found  # noqa: PLR2004 - pictures, patches, numbers
        if found.ndim != 2 or len(found) != n:  # noqa: PLR2004 - pictures, numbers
            raise UsageError(f"{self._path} gave an array of {found.shape} for {n}, not a vector for each.")
        return list(found)

    def _loaded(self) -> Any:
        if self._session is None:
            runtime = load_extra("onnxruntime", "Embeddings need", _EXTRA)
            self._path = self._weights.path(self._file)
            providers = [name for name in _PROVIDERS if name in runtime.get_available_providers()]
            with _unusable(self._path, "loaded as an ONNX model"):
                self._session = runtime.InferenceSession(str(self._path), providers=providers)
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}


class VectorMetric(Bounded, ABC):
    """A metric that compares vectors by their cosine: each picture is turned into one once, and they are kept."""

    higher_is_better: ClassVar[bool] = True
    side_px: ClassVar[int] = 512  # a JPEG is decoded at the least fraction that is no smaller

    def __init__(self, name: str, batch_size: int) -> None:
        check_count("batch_size", batch_size)
        self.name = name
        self.batch_size = batch_size

    @property
    @abstractmethod
    def version(self) -> str:
        """What the vectors depend on: the model's files and how pictures are prepared."""

    @abstractmethod
    def embed(self, pictures: Sequence[Image.Image]) -> list[Vector | None]:
        """Turn upright RGB pictures into vectors; None if there is nothing to measure."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of the angle between two vectors; NaN if either has no finite length."""
    if one.shape != other.shape:
        raise UsageError(f"Vectors of {one.size} and {other.size} numbers: are all files of one model?")
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths and math.isfinite(lengths) else math.nan


class Embedding(VectorMetric):
    """How alike two pictures are to a vision model: the cosine of their embeddings, from -1 to 1.

    ``"dinov2-small"`` compares what is there and is hardly moved by colours and style; ``"clip-vit-b32"`` compares
    what a picture shows in words. Research on subject-driven generation reports both (DINO and CLIP-I; Ruiz et al.,
    DreamBooth, CVPR 2023, with DINO ViT-S/16 and CLIP ViT-B/32). Neither tells one person from another reliably: see
    `Face`.

    Parameters
    ----------
    model : str
        A preset: ``"dinov2-small"`` (88 MB) or ``"clip-vit-b32"`` (352 MB).
    name : str, optional
        Name of the column; default: the preset.
    path : path, optional
        A folder with the model's files, for machines without internet or files of your own; default: fetched from
        the Hugging Face hub at first use, by revision and digest.
    batch_size : int
        Pictures given to the model at once; 1 for a model that was exported for one.

    Raises
    ------
    UsageError
        If there is no such preset; when it measures, if ONNX Runtime isn't installed (extra ``identity``), or the
        weights can't be fetched, found or loaded.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> dreamo.metrics.Embedding("dinov2-small", name="identity")
    Embedding(name='identity')
    """

    def __init__(
        self,
        model: str = "dinov2-small",
        *,
        name: str | None = None,
        path: str | os.PathLike[str] | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(name or model, batch_size)
        self._weights = _Weights(model, "image", path)
        self._network = _Network(self._weights, "image")

    @property
    def version(self) -> str:
        """What the vectors depend on."""
        return f"{self._weights.name}:{self._weights.digest('image')}:{_VERSION}"

    def embed(self, pictures: Sequence[Image.Image]) -> list[Vector | None]:
        """Turn upright RGB pictures into vectors.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image
            Upright, in RGB.

        Returns
        -------
        list of (numpy.ndarray of float32, or None)
            A vector of shape (n,) for each picture.
        """
        if not pictures:
            return []
        how = self._weights.preset["image"]
        prepared = np.stack([prepare(picture, how) for picture in pictures])
        return list(self._network.vectors(how["output"], prepared, len(pictures)))


def prepare(picture: Image.Image, how: Mapping[str, Any]) -> NDArray[np.float32]:
    """Scale by the shorter side, crop the centre and normalise, as the model's own processor does."""
    side, crop = how["resize_px"], how["crop_px"]
    # The longer side is truncated, not rounded, as in transformers and torchvision.
    width, height = (edge * side // min(picture.size) for edge in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - crop) // 2, (height - crop) // 2
    levels = np.asarray(scaled.crop((left, top, left + crop, top + crop)), dtype=np.float32) / 255
    normal = (levels - np.array(how["mean"], np.float32)) / np.array(how["std"], np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


class PromptMatch(Embedding):
    """How well a picture fits its prompt: the cosine of the embeddings of both, about 0.2 to 0.35 for CLIP.

    Research on subject-driven generation reports it as CLIP-T (Ruiz et al., DreamBooth, CVPR 2023). CLIP was trained
    on English: a prompt in another script has no value, and prompts are compared by their first 77 tokens.

    Parameters
    ----------
    model : str
        A preset: ``"clip-vit-b32"`` (352 MB for pictures, 254 MB for prompts).
    name : str
        Name of the column.
    path, batch_size
        See `Embedding`.

    Raises
    ------
    UsageError
        See `Embedding`.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> dreamo.metrics.PromptMatch()
    PromptMatch(name='prompt_match')
    """

    nothing = "the prompt isn't in Latin script; the model reads English only"

    def __init__(
        self,
        model: str = "clip-vit-b32",
        *,
        name: str = "prompt_match",
        path: str | os.PathLike[str] | None = None,
        batch_size: int = 16,
    ) -> None:
        _preset(model, "text")
        super().__init__(model, name=name, path=path, batch_size=batch_size)
        self._text = _Network(self._weights, "text")
        self._tokenizer: Any = None

    def embed_prompt(self, prompt: str) -> Vector | None:
        """Turn a prompt into a vector.

        Parameters
        ----------
        prompt : str
            Cut after 77 tokens.

        Returns
        -------
        numpy.ndarray of float32, or None
            Shape (n,); None if the prompt isn't in Latin script.
        """
        if not is_latin(prompt):
            return None
        ids = np.array([self._tokens(prompt)], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return self._text.vectors(self._weights.preset["text"]["output"], inputs, 1)[0]

    def _tokens(self, prompt: str) -> list[int]:
        if self._tokenizer is None:
            library = load_extra("tokenizers", "Prompts need", _EXTRA)
            path = self._weights.path("tokenizer")
            with _unusable(path, "read as a tokenizer"):
                self._tokenizer = library.Tokenizer.from_file(str(path))
            self._tokenizer.enable_truncation(self._weights.preset["text"]["n_tokens"])
        return list(self._tokenizer.encode(prompt).ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}


def is_latin(prompt: str) -> bool:
    """Whether at least half of the letters are Latin."""
    letters = [letter for letter in prompt if letter.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)


class Face(VectorMetric):
    """How alike the largest faces of two pictures are: the cosine of their embeddings, from -1 to 1.

    YuNet finds the faces and SFace compares them; OpenCV's documentation calls two faces the same person from 0.363 on
    (LFW). Both were trained on photographs: drawn characters may have no face that they find, and the value is missing
    then. Calibrate it on your own pictures, see `dreamo_batch.calibrate`.

    Parameters
    ----------
    model : str
        A preset: ``"yunet-sface"`` (39 MB).
    name : str
        Name of the column.
    min_score : float
        How sure the detector must be of a face, from 0 to 1.
    path, batch_size
        See `Embedding`.

    Raises
    ------
    UsageError
        See `Embedding`.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> dreamo.metrics.Face(min_score=0.8)
    Face(name='face')
    """

    nothing = "no face was found"
    side_px = 1024

    def __init__(
        self,
        model: str = "yunet-sface",
        *,
        name: str = "face",
        min_score: float = 0.7,
        path: str | os.PathLike[str] | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__(name, batch_size)
        if not is_number(min_score) or not 0 < min_score <= 1:
            raise UsageError(f"min_score={quoted(min_score)}: expected a number above 0 and at most 1.")
        self.min_score = min_score
        self._weights = _Weights(model, "recogniser", path)
        self._detector = _Network(self._weights, "detector")
        self._recogniser = _Network(self._weights, "recogniser")

    @property
    def version(self) -> str:
        """What the vectors depend on."""
        digest = self._weights.digest("detector", "recogniser")
        return f"{self._weights.name}:{digest}:{self.min_score}:{_VERSION}"

    def embed(self, pictures: Sequence[Image.Image]) -> list[Vector | None]:
        """Turn upright RGB pictures into the vectors of their largest faces.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image
            Upright, in RGB.

        Returns
        -------
        list of (numpy.ndarray of float32, or None)
            A vector of shape (n,) for each picture; None for one without a face.
        """
        return [self._of_largest(picture) for picture in pictures]

    def _of_largest(self, picture: Image.Image) -> Vector | None:
        landmarks = self._find_largest(picture)
        if landmarks is None:
            return None
        aligned = np.asarray(align(picture, landmarks), dtype=np.float32)
        return self._recogniser.vectors("", aligned.transpose(2, 0, 1)[None], 1)[0]

    def _find_largest(self, picture: Image.Image) -> NDArray[np.float64] | None:
        """Return the landmarks of the largest face, in pixels of the picture."""
        factor = _DETECTED_PX / max(picture.size)
        canvas = Image.new("RGB", (_DETECTED_PX, _DETECTED_PX))
        width, height = (max(1, round(edge * factor)) for edge in picture.size)
        canvas.paste(picture.resize((width, height), Image.Resampling.BILINEAR))
        bgr = np.asarray(canvas, dtype=np.float32)[..., ::-1].transpose(2, 0, 1)[None]
        names = [f"{kind}_{stride}" for stride in _STRIDES for kind in ("cls", "obj", "bbox", "kps")]
        found = dict(zip(names, self._detector.run(names, np.ascontiguousarray(bgr)), strict=True))
        scores, boxes, landmarks = decode_faces(found, self.min_score)
        kept = _without_overlaps(scores, boxes)
        if not kept:
            return None
        largest = max(kept, key=lambda face: boxes[face, 2] * boxes[face, 3])
        return np.asarray(landmarks[largest] / factor)


def decode_faces(
    found: Mapping[str, NDArray[Any]], min_score: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return scores (n), boxes (n x 4: left, top, width, height) and landmarks (n x 5 x 2) from YuNet's outputs."""
    scores, boxes, landmarks = [], [], []
    for stride in _STRIDES:
        n_columns = _DETECTED_PX // stride
        parts = (found[f"{kind}_{stride}"].astype(np.float64) for kind in ("cls", "obj", "bbox", "kps"))
        is_face, is_object, box, points = (part.reshape(n_columns**2, -1) for part in parts)
        score = np.sqrt(is_face.clip(0, 1) * is_object.clip(0, 1))[:, 0]
        at = np.flatnonzero(score >= min_score)
        cell = np.stack([at % n_columns, at // n_columns], axis=1)
        size = np.exp(box[at, 2:]) * stride
        corner = (cell + box[at, :2]) * stride - size / 2
        scores.append(score[at])
        boxes.append(np.hstack([corner, size]))
        landmarks.append((points[at].reshape(-1, 5, 2) + cell[:, None]) * stride)
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(landmarks)


def _without_overlaps(scores: NDArray[np.float64], boxes: NDArray[np.float64]) -> list[int]:
    """Return the indices of the best of overlapping boxes (non-maximum suppression)."""
    kept: list[int] = []
    for box in np.argsort(-scores, kind="stable"):
        if all(_overlap(boxes[box], boxes[other]) <= _OVERLAP_MAX for other in kept):
            kept.append(int(box))
    return kept


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.prod((high - low).clip(0)))
    return shared / float(np.prod(one[2:]) + np.prod(other[2:]) - shared)


def align(picture: Image.Image, landmarks: NDArray[np.float64]) -> Image.Image:
    """Rotate, scale and crop a face so that its landmarks lie where the recogniser expects them."""
    matrix = similarity(landmarks)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    # Pillow measures from the corner of a pixel, OpenCV from its centre.
    inverse[:2, 2] += 0.5 - inverse[:2, 0] / 2 - inverse[:2, 1] / 2
    return picture.transform(
        (_FACE_PX, _FACE_PX), Image.Transform.AFFINE, tuple(inverse[:2].ravel()), Image.Resampling.BILINEAR
    )


def similarity(landmarks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the similarity transform (2 x 3) that best maps landmarks to those of an aligned face (Umeyama, 1991)."""
    centre, aim = landmarks.mean(axis=0), _LANDMARKS.mean(axis=0)
    points, targets = landmarks - centre, _LANDMARKS - aim
    left, strengths, right = np.linalg.svd(targets.T @ points / len(points))
    signs = np.array([1.0, -1.0 if np.linalg.det(left) * np.linalg.det(right) < 0 else 1.0])
    turn = left @ np.diag(signs) @ right
    scale = float(strengths @ signs) / max(float(np.square(points).sum(axis=1).mean()), np.finfo(float).tiny)
    return np.hstack([scale * turn, (aim - scale * turn @ centre)[:, None]])


# The metrics that can be asked for by name.
BY_NAME: Final = {metric.name: metric for metric in (Embedding(name="identity"), PromptMatch(), Face())}
