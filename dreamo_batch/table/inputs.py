"""The folder that keeps reference pictures: from memory, corrected, and copies of the files used; each written once.

Examples
--------
>>> Inputs(None).keep("ba78.png", b"abc")
'ba78.png'
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dreamo_batch.errors import StorageFailed
from dreamo_batch.table.loading import sha256
from dreamo_batch.table.looking import each
from dreamo_batch.table.pictures import SUFFIXES, examine, suffix_of
from dreamo_batch.table.repair import RECIPE, is_repairable, repair
from dreamo_batch.table.sources import URL
from dreamo_batch.table.writing import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dreamo_batch.table.images import ImageSource


def kept_copy(folder: Path | None, digest: str) -> Path | None:
    """Find the copy of a file in a folder by the digest of its bytes.

    Parameters
    ----------
    folder : pathlib.Path or None
        The folder.
    digest : str
        SHA-256, hex.

    Returns
    -------
    pathlib.Path or None
        None if there is none; its bytes are not read.

    Examples
    --------
    >>> kept_copy(None, "ba78") is None
    True
    """
    places = [] if folder is None else [folder / f"{digest}{suffix}" for suffix in SUFFIXES]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A folder named by digests; without a `directory`, names are given but nothing is written.

    Examples
    --------
    >>> Inputs(None).directory is None
    True
    """

    directory: Path | None

    def keep(self, name: str, content: bytes) -> str:
        """Keep a picture under a name that stands for its content.

        Parameters
        ----------
        name : str
            File name.
        content : bytes
            The whole file.

        Returns
        -------
        str
            Absolute path; the bare name if nothing is written.

        Raises
        ------
        StorageFailed
            If the folder can't be written to.

        Examples
        --------
        >>> Inputs(None).keep("a.png", b"")
        'a.png'
        """
        if self.directory is None:
            return name
        path = self.directory / name
        try:
            if not (path.exists() and path.read_bytes() == content):
                self.directory.mkdir(parents=True, exist_ok=True)
                write_atomically(path, content)
        except OSError as error:
            raise StorageFailed(
                f"The picture {path} can't be written ({error.strerror or error}). Nothing was sent for it. "
                "Free some space or choose another run directory, and run again."
            ) from error
        return str(path)

    def keep_references(self, images: Iterable[ImageSource]) -> None:
        """Keep a copy of each file that is to be sent, so that the directory can be given away.

        Parameters
        ----------
        images : iterable of ImageSource
            As they were checked; what is at a URL isn't fetched, and a file changed since is left out.

        Raises
        ------
        StorageFailed
            If the folder can't be written to.

        Examples
        --------
        >>> Inputs(None).keep_references([])
        """
        distinct = {image.sent_location: image for image in images if image.kind != URL}
        elsewhere = [one for place, one in distinct.items() if Path(place).parent != self.directory]
        wanted = [] if self.directory is None else elsewhere
        for _ in each(wanted, self._keep_reference, what="keeping references"):
            pass

    def _keep_reference(self, image: ImageSource) -> None:
        if kept_copy(self.directory, image.sent_digest) is not None:
            return
        try:
            content = Path(image.sent_location).read_bytes()
        except OSError:
            return  # the worker says so for the rows that need it
        if sha256(content) == image.sent_digest:
            self.keep(image.sent_digest + suffix_of(content), content)

    def keep_repaired(self, digest: str, content: bytes) -> tuple[str, bytes]:
        """Keep the corrected copy of a picture; one made by an earlier call is used as it is.

        Parameters
        ----------
        digest : str
            Digest of the source.
        content : bytes
            The whole source.

        Returns
        -------
        tuple of str and bytes
            Absolute path of the copy (the bare name if nothing is written), and its bytes.

        Raises
        ------
        StorageFailed
            If the folder can't be written to.
        Exception
            Whatever Pillow raises if the source can't be decoded.

        Examples
        --------
        >>> import io
        >>> from PIL import Image
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (8, 8)).save(buffer, "GIF")
        >>> Inputs(None).keep_repaired("ba78", buffer.getvalue())[0]
        'ba78-fixed-1.png'
        """
        stem = f"{digest}-fixed-{RECIPE}"
        earlier = self._earlier(stem)
        if earlier is not None:
            return earlier
        repaired = repair(content)
        return self.keep(stem + suffix_of(repaired), repaired), repaired

    def _earlier(self, stem: str) -> tuple[str, bytes] | None:
        if self.directory is None:
            return None
        for path in (self.directory / f"{stem}.jpg", self.directory / f"{stem}.png"):
            content = path.read_bytes() if path.is_file() else b""
            # A copy that was tampered with would break a rule; then it is made anew.
            if content and not any(one.is_error or is_repairable(one) for one in examine(content)):
                return str(path), content
        return None
