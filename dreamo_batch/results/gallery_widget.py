"""The gallery as a widget: pages, full pictures on demand, and what is chosen by clicks and keys."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError
from dreamo_batch.results import grid_style
from dreamo_batch.results.gallery_esm import ESM, STYLE
from dreamo_batch.results.thumbnails import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dreamo_batch.results.gallery import Gallery

FULL_BYTES_MAX: Final = 8_000_000
_FULL_PX: Final = 2_048
_MEDIA_TYPES: Final = ((b"\xff\xd8", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))


class GalleryWidget:
    """One widget of a gallery: keeps what it shows and what is chosen in step with it.

    Parameters
    ----------
    gallery : Gallery
        What it is of.

    Raises
    ------
    UsageError
        If anywidget is not installed.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self.widget = _class()(content=gallery.content(), chosen=gallery.chosen)
        self.widget.observe(self._take_chosen, names="chosen")
        self.widget.on_msg(self._answer)

    def show_page(self) -> None:
        """Show the page that the gallery is turned to."""
        self.widget.content = self._gallery.content()

    def show_chosen(self, positions: Sequence[int]) -> None:
        """Show what is chosen."""
        self.widget.chosen = list(positions)

    def _take_chosen(self, change: Any) -> None:
        self._gallery.choose([position for position in change["new"] if isinstance(position, int)])

    def _answer(self, _: Any, message: Any, __: Any) -> None:
        """Answer the front end; what does not read as one of its questions is let go."""
        match message:
            case {"type": "turn", "number": int(number)} if 1 <= number <= self._gallery.n_pages:
                self._gallery.page(number)
            case {"type": "refresh"}:
                self._gallery.refresh()
            case {"type": "full", "position": int(position)} if 0 <= position < len(self._gallery.results):
                self._send_full(position)

    def _send_full(self, position: int) -> None:
        path = self._gallery.path_at(position)
        found = None if path is None else full(path)
        answer = {"type": "full", "position": position}
        if found is None:
            self.widget.send(answer)
        else:
            self.widget.send({**answer, "media": found[0]}, [found[1]])


def full(path: Path, *, bytes_max: int = FULL_BYTES_MAX) -> tuple[str, bytes] | None:
    """Read a picture for a browser, as it is, or a smaller JPEG of one that is too heavy or of another kind.

    Returns
    -------
    tuple of str and bytes, or None
        Its media type and its bytes; None if it is gone or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> full(Path("gone.jpg"))
    """
    try:
        content = path.read_bytes() if path.stat().st_size <= bytes_max else b""
    except (OSError, ValueError):
        return None
    media = next((media for start, media in _MEDIA_TYPES if content.startswith(start)), None)
    if media is not None:
        return media, content
    picture = shown(path, _FULL_PX)
    if picture is None:
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return "image/jpeg", buffer.getvalue()


def is_possible() -> bool:
    """Say whether anywidget is installed."""
    try:
        import anywidget  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def _class() -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise UsageError(
            f"The widget needs anywidget ({error}): pip install 'dreamo-batch[gallery]'."
        ) from None

    class View(anywidget.AnyWidget):
        _esm = ESM
        _css = grid_style.STYLE + STYLE
        content = traitlets.Dict().tag(sync=True)
        chosen: Any = traitlets.List().tag(sync=True)

    return View
