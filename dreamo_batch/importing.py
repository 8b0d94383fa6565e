"""Load modules completely, and those of extras, which may be missing.

An interrupt in the middle of an import can leave pandas or Arrow unusable until a restart.

Interrupts reach only the main thread, so modules are loaded in another, while the main thread waits. One that is
interrupted there waits no longer; the modules are loaded all the same, and whoever asks next waits for the rest.
"""

from __future__ import annotations

import _imp
import importlib
import sys
import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

_Loaded = TypeVar("_Loaded")

_IMPORTS: Final = "<frozen importlib._bootstrap>"


def load_module(name: str) -> ModuleType:
    """Import a module so that an interrupt can't leave it half loaded."""
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        return module
    return uninterrupted(importlib.import_module, name)


def load_extra(name: str, need: str, extra: str) -> Any:
    """Import a module of an extra; raise `UsageError` that says how to install it, or why it can't be loaded."""
    package = name.partition(".")[0]
    try:
        return load_module(name)
    except ImportError as error:
        raise UsageError(f"{need} {package} ({error}): pip install 'dreamo-batch[{extra}]'.") from None
    except Exception as error:
        raise UsageError(f"{need} {package}, which can't be loaded here: {error}") from error


def refuse_at_exit() -> None:
    """Raise if Python is shutting down, when no thread can be started any more."""
    if getattr(threading, "_SHUTTING_DOWN", False):  # there is no public way to find out
        raise UsageError(
            "Python is shutting down. Join the thread before the end; the same call resumes."
        ) from None


def uninterrupted(load: Callable[[str], _Loaded], name: str) -> _Loaded:
    """Call a function that imports modules so that an interrupt can't leave one half loaded."""
    loaded: list[_Loaded] = []

    def keep() -> None:
        with suppress(Exception):
            loaded.append(load(name))

    # During an import, another thread could wait for a module that only this thread can finish.
    try:
        if sys.is_finalizing():  # waiting for a thread that never begins would block
            refuse_at_exit()
        if threading.current_thread() is threading.main_thread() and not _is_importing():
            # An interrupt can leave the global import lock with this thread forever.
            with suppress(RuntimeError):
                while _imp.lock_held():
                    _imp.release_lock()
            thread = threading.Thread(target=keep, name="dreamo-importing", daemon=True)
            thread.start()
            thread.join()
        return loaded[0] if loaded else load(name)  # called again, to raise the error that it ended with
    except RuntimeError:
        refuse_at_exit()
        raise


def _is_importing() -> bool:
    """Whether this thread is in the middle of loading a module."""
    codes = (frame.f_code for frame, _ in traceback.walk_stack(sys._getframe()))  # noqa: SLF001 - this thread's own stack
    return any(code.co_filename == _IMPORTS and code.co_name == "_load_unlocked" for code in codes)
