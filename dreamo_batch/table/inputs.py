"""The folder that keeps pictures from memory and corrected copies, each written once.

Examples
--------
>>> Inputs(None).keep("ba78.png", b"abc")
'ba78.png'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamo_batch.errors import StorageFailed
from dreamo_batch.table.pictures import examine, suffix_of
from dreamo_batch.table.repair import RECIPE, is_repairable, repair
from dreamo_batch.table.writing import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


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
