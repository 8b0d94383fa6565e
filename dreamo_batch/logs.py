"""Loggers of this package: an exception in somebody's handler never ends a run that buys."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress


class UnfailingLogger(logging.Logger):
    """A logger that names a handler's exception once, on standard error, and goes on."""

    _has_failed = False

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to the filters and handlers."""
        try:
            super().handle(record)
        except Exception as error:  # noqa: BLE001 - whatever a handler does
            if not UnfailingLogger._has_failed:
                UnfailingLogger._has_failed = True
                with suppress(Exception):
                    sys.stderr.write(f"dreamo_batch: a logging handler failed ({error!r}); going on.\n")


def logger_named(name: str) -> logging.Logger:
    """Return the logger of that name, made unfailing unless somebody has replaced its class."""
    logger = logging.getLogger(name)
    if type(logger) is logging.Logger:
        logger.__class__ = UnfailingLogger
    return logger
