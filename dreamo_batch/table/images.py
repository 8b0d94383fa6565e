"""The preflight of one reference picture: looked at, hashed, and where asked corrected.

Examples
--------
>>> from pathlib import Path
>>> from dreamo_batch.table.sources import Source
>>> check(Source("bytes", content=b"<html>"), Check(Path("/data"))).findings[0].code
'image-not-a-picture'
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from dreamo_batch.errors import StorageFailed
from dreamo_batch.table import links
from dreamo_batch.table.findings import Finding
from dreamo_batch.table.loading import Loaded, load, sha256
from dreamo_batch.table.pictures import damaged, examine, suffix_of
from dreamo_batch.table.repair import RECIPE, CameOutUniform, announce, is_repairable
from dreamo_batch.table.rule import WARNING
from dreamo_batch.table.sources import PIXELS, URL, Source, judge_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dreamo_batch.table.inputs import Inputs

# A table whose links expired lately is still being worked on: it isn't refused, but nothing is sent with them.
_LATELY_S: Final = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One reference picture: where it is, and the digest of what will be sent.

    `location` is an absolute path or a URL. `digest` is the SHA-256 of the file's bytes; of mode, size and
    pixels for a PIL image; for a URL, of what of it names the picture (`links.canonical`). `sent_location` and
    `sent_digest` are the same unless a corrected copy was made; `sent_digest` is the SHA-256 of the file at
    `sent_location`, or of the URL as it is sent.

    Examples
    --------
    >>> url = "https://example.com/cat.png"
    >>> ImageSource("url", url, "0" * 64, url, "0" * 64).kind
    'url'
    """

    kind: Literal["file", "url"]
    location: str
    digest: str
    sent_location: str
    sent_digest: str


@dataclass(frozen=True, slots=True)
class Check:
    """How pictures are checked.

    `inputs` takes pictures in memory and corrected copies; without it pictures are only judged. `known`
    holds pictures by absolute path, or canonical URL, as they were when last seen, for files that are gone since
    and links that have expired.

    Examples
    --------
    >>> from pathlib import Path
    >>> Check(Path("/data")).fix_images
    False
    """

    base_dir: Path
    fix_images: bool = False
    inputs: Inputs | None = None
    known: Mapping[str, ImageSource] = field(default_factory=dict)
    wall: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found; `image` and what a job's identity takes from it (JSON), if it can be sent.

    Examples
    --------
    >>> Checked(()).image is None
    True
    """

    findings: tuple[Finding, ...]
    image: ImageSource | None = None
    identity: str = ""


def check(source: Source, how: Check) -> Checked:
    """Check one picture, reading it once.

    Parameters
    ----------
    source : Source
        Where it is.
    how : Check
        What to do with it.

    Returns
    -------
    Checked
        Every problem; the picture, if it can be sent and `how.inputs` is given.

    Raises
    ------
    StorageFailed
        If the folder for copies can't be written to.

    Examples
    --------
    >>> from pathlib import Path
    >>> from dreamo_batch.table.sources import Source
    >>> check(Source("url", "https://example.com/cat.png"), Check(Path("/data"))).identity
    '["url","https://example.com/cat.png"]'
    """
    if source.kind == URL:
        return _check_url(source.location, how)
    loaded = load(source, how.base_dir)
    if isinstance(loaded, Finding):
        return _remembered(source, loaded, how)
    findings = tuple(announce(one, fix_images=how.fix_images) for one in examine(loaded.content))
    if how.inputs is None or any(one.is_error for one in findings):
        return Checked(findings)
    if how.fix_images and any(is_repairable(one) for one in findings):
        return _repaired(loaded, findings, how.inputs)
    return _as_it_is(loaded, findings, how.inputs)


def _check_url(url: str, how: Check) -> Checked:
    named = links.canonical(url)
    findings = tuple(one for one in (judge_url(url), _expiry(url, named, how)) if one is not None)
    image = ImageSource(URL, url, sha256(named.encode()), url, sha256(url.encode()))
    return Checked(findings, image, _identity(URL, named))


def _expiry(url: str, named: str, how: Check) -> Finding | None:
    expires_at = links.expires_at(url)
    if expires_at is None or expires_at > how.wall():
        return None
    finding = Finding.of("image-link-expired", when=_utc(expires_at))
    if named in how.known or expires_at > how.wall() - _LATELY_S:
        return dataclasses.replace(finding, severity=WARNING)
    return finding


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _remembered(source: Source, finding: Finding, how: Check) -> Checked:
    image = how.known.get(source.location) or _known_elsewhere(source, how)
    if image is None or finding.code not in {"image-not-found", "image-unreadable"}:
        return Checked((finding,))
    identity = _identity("bytes", image.digest)
    if image.sent_digest != image.digest:
        identity = _identity_of_copy(identity)
    code = "image-kept" if Path(image.sent_location).is_file() else "image-gone"
    return Checked((Finding.of(code, path=source.location),), image, identity)


def _known_elsewhere(source: Source, how: Check) -> ImageSource | None:
    """Find the picture of a table that was moved with its run directory: the same path below another folder."""
    try:
        below = Path(source.location).relative_to(how.base_dir)
    except ValueError:
        return None
    found = {
        image.digest: image
        for place, image in how.known.items()
        if place.endswith(f"/{below.as_posix()}") and Path(image.sent_location).is_file()
    }
    return next(iter(found.values())) if len(found) == 1 else None


def _as_it_is(loaded: Loaded, findings: tuple[Finding, ...], inputs: Inputs) -> Checked:
    location = _kept(loaded, inputs)
    sent_digest = sha256(loaded.content) if loaded.made_of == PIXELS else loaded.digest
    image = ImageSource("file", location, loaded.digest, location, sent_digest)
    return Checked(findings, image, _identity(loaded.made_of, loaded.digest))


def _repaired(loaded: Loaded, findings: tuple[Finding, ...], inputs: Inputs) -> Checked:
    try:
        sent_location, copy = inputs.keep_repaired(loaded.digest, loaded.content)
    except StorageFailed:
        raise
    except CameOutUniform:
        return Checked((Finding.of("image-copy-uniform"),))
    except Exception as error:  # noqa: BLE001 - Pillow lets nearly any exception out of damaged files
        return Checked((damaged(error),))
    image = ImageSource("file", _kept(loaded, inputs), loaded.digest, sent_location, sha256(copy))
    return Checked(findings, image, _identity_of_copy(_identity(loaded.made_of, loaded.digest)))


def _kept(loaded: Loaded, inputs: Inputs) -> str:
    return loaded.location or inputs.keep(loaded.digest + suffix_of(loaded.content), loaded.content)


def _identity(kind: str, text: str) -> str:
    return json.dumps([kind, text], separators=(",", ":"))


def _identity_of_copy(identity: str) -> str:
    return f'["fixed",{identity},{RECIPE}]'
