"""Objects in a store by name: get, put, put if absent, list and delete, over obstore or in a folder."""

from __future__ import annotations

import errno
import re
import secrets
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from dreamo_batch.errors import LIKE_URL, DirectoryError, UsageError, path_given
from dreamo_batch.files import fsync_file, fsync_folder
from dreamo_batch.importing import load_extra, load_module
from dreamo_batch.text import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SCHEMES: Final = ("s3", "gs", "az")
SLICES: Final = "slices/"  # the records of a budget
FIRST_SLICE: Final = f"{SLICES}{1:012d}"
_PROBE: Final = "probe"
_TRIES: Final = 6
_PAUSE_S: Final = 0.2
# A write of the log that was tried more than once is looked at before it counts.
_RETRIES: Final[Any] = {"max_retries": 6, "retry_timeout": timedelta(seconds=10)}


_URL: Final = re.compile(rf"(?:{'|'.join(SCHEMES)})://[^/\s]+(?P<folder>/.*)?", re.DOTALL)
_SECRET: Final = re.compile(r"//[^/]*@|[?#]")


def place_given(name: str, place: object) -> str:
    """Return a path or the URL of a store as text; raises an error that names the argument."""
    text = path_given(name, place, is_local=False)
    if not LIKE_URL.match(text):
        return text
    if _SECRET.search(text):
        raise UsageError(
            f"{name} must be a URL without credentials, query and fragment, such as s3://bucket/folder. The store's "
            "credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*)."
        )
    found = _URL.fullmatch(text)
    if found is None:
        raise UsageError(
            f"{name} {text!r} can't be used; expected a path, or a URL such as s3://bucket/folder (or gs://, az://)."
        )
    folders = (found["folder"] or "")[1:].rstrip("/").split("/")
    if found["folder"] not in {None, "/"} and any(one.strip() in {"", ".", ".."} for one in folders):
        raise UsageError(f"{name} {text!r} can't be used: a folder in it is empty, '.' or '..'.")
    return text


class Taken(Exception):  # noqa: N818 - it says what was found
    """There is an object of this name already, or the store says so."""


class Records(Protocol):
    """What a log of records that never change needs of a store; any method may raise OSError, which tells nothing."""

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, and raise `Taken` if there is."""

    def names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix, in order."""


class Store(Records, Protocol):
    """What the log of a run directory needs of a store, beside records."""

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing any."""

    def folders(self, folder: str) -> list[str]:
        """List the folders in one that hold any object, however many those are."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone don't matter."""


class ObjectStore:
    """A bucket, or a folder in it, by URL; its credentials come from the environment, as its own tools read them."""

    def __init__(self, url: str, store: Any = None) -> None:
        self.url = url
        obstore = load_extra("obstore", f"{url} needs", "cloud")
        failures = load_module("obstore.exceptions")
        self._obstore, self._failures = obstore, failures
        try:
            self._store = obstore.store.from_url(url, retry_config=_RETRIES) if store is None else store
        except (failures.BaseError, ValueError) as error:
            raise UsageError(f"{url} can't be opened ({first_line(error)}).") from None

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except FileNotFoundError:
            return None
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{name} can't be read ({first_line(error)})") from None

    def put(self, name: str, content: bytes) -> None:
        """Write an object, replacing any."""
        self._put(name, content, "overwrite")

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, and raise `Taken` if there is."""
        self._put(name, content, "create")

    def names(self, prefix: str) -> list[str]:
        """List the names that begin with a prefix, in order."""
        return self._listed(
            prefix,
            lambda: [one["path"] for chunk in self._obstore.list(self._store, prefix) for one in chunk],
        )

    def folders(self, folder: str) -> list[str]:
        """List the folders in one that hold any object, however many those are."""
        return self._listed(
            folder, lambda: self._obstore.list_with_delimiter(self._store, folder)["common_prefixes"]
        )

    def _listed(self, prefix: str, ask: Callable[[], Iterable[str]]) -> list[str]:
        try:
            return sorted(ask())
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{prefix} can't be listed ({first_line(error)})") from None

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone don't matter."""
        for name in names:
            try:
                self._obstore.delete(self._store, name)
            except FileNotFoundError:
                continue
            except self._failures.BaseError as error:
                raise OSError(f"{self.url}/{name} can't be deleted ({first_line(error)})") from None

    def _put(self, name: str, content: bytes, mode: Literal["create", "overwrite"]) -> None:
        try:
            self._obstore.put(self._store, name, content, mode=mode, use_multipart=False)
        except self._failures.AlreadyExistsError:
            raise Taken(name) from None
        except self._failures.NotSupportedError:
            raise DirectoryError(
                f"{self.url} can't refuse to replace an object, on which a run directory there relies."
            ) from None
        except self._failures.BaseError as error:
            raise OSError(f"{self.url}/{name} can't be written ({first_line(error)})") from None


class FolderStore:
    """A folder that holds records by name; a name is given once, also by programs on different machines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> bytes | None:
        """Return an object's content; None if there is none."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put_new(self, name: str, content: bytes) -> None:
        """Write an object unless there is one, durably, and raise `Taken` if there is."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        try:
            temporary.write_bytes(content)
            fsync_file(temporary)
            path.hardlink_to(temporary)  # unlike a rename, it never replaces a file
        except FileExistsError:
            raise Taken(name) from None
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise DirectoryError(
                    f"{path.parent} can't be used: its file system has no hard links, on which a budget relies."
                ) from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)

    def names(self, prefix: str) -> list[str]:
        """List the names in the folder that a prefix names."""
        folder = self.path / prefix
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(prefix + path.name for path in found if not path.name.startswith("."))


def is_put(store: Records, name: str, written: bytes, pause: Callable[[float], object] = time.sleep) -> bool:
    """Put an object, unlike any other, where none is; False if another's is there, OSError if nobody can tell."""
    problem: Exception | None = None
    for attempt in range(_TRIES):
        if attempt:
            pause(_PAUSE_S * 2 ** (attempt - 1))
        try:
            store.put_new(name, written)
        except (Taken, OSError) as error:
            problem = error
        else:
            return True
        # The answer may be lost, late or wrong: what stands there says what became of it.
        try:
            found = store.get(name)
        except OSError as error:
            problem = error
            continue
        if found is not None:
            return found == written
    raise OSError(f"the store doesn't say whether {name} has arrived ({problem})")


def refuse_unsafe(store: Store, url: str) -> None:
    """Refuse a store that replaces an object although it was asked not to: two writers would not notice each other."""
    name = f"{_PROBE}/{secrets.token_hex(8)}"
    first, second = secrets.token_bytes(16), secrets.token_bytes(16)
    try:
        try:
            store.put_new(name, first)
            store.put_new(name, second)
        except Taken:  # a repeated request may have met itself, which is fine
            pass
        found = store.get(name)
    except OSError as error:
        raise DirectoryError(
            f"{url} can't be used ({error}). Check the address and its credentials."
        ) from None
    if found != first:
        raise DirectoryError(
            f"{url} replaces an object although it was asked not to (If-None-Match is ignored), so two writers would "
            "not notice each other. Use a store that supports conditional writes: S3, GCS, Azure, or a current MinIO, "
            "Ceph or SeaweedFS."
        )
    store.delete([name])


def races(store: Store, n_slots: int = 40, n_writers: int = 8) -> int:
    """Have several threads put the same objects at once; count those that more than one believes to have put."""
    folder = f"{_PROBE}/{secrets.token_hex(8)}"
    names = [f"{folder}/{number}" for number in range(n_slots)]

    def put(writer: int) -> list[str]:
        won = []
        for name in names:
            try:
                store.put_new(name, b"%d" % writer)
            except (Taken, OSError):
                continue
            won.append(name)
        return won

    with ThreadPoolExecutor(n_writers) as pool:
        winners = Counter(name for won in pool.map(put, range(n_writers)) for name in won)
    store.delete(names)
    return sum(n > 1 for n in winners.values())
