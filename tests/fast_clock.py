"""Runs whose clock goes a hundred times as fast as the machine's, so that back-offs pass quickly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dreamo_batch import call
from dreamo_batch.engine import sending
from dreamo_batch.engine.coordinator import Coordinator

if TYPE_CHECKING:
    import pytest

SPEED = 100


class FastClock:
    def __init__(self) -> None:
        self._offset = time.time() - self.monotonic()

    def monotonic(self) -> float:
        return time.monotonic() * SPEED

    def wall(self) -> float:
        return self.monotonic() + self._offset


def speed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make time pass a hundred times as fast for every run of this test."""
    asked = Coordinator.wait_s

    def wait_s(self: Coordinator, n_free: int) -> float | None:
        seconds = asked(self, n_free)
        return None if seconds is None else seconds / SPEED

    monkeypatch.setattr(Coordinator, "wait_s", wait_s)
    monkeypatch.setattr(call, "SystemClock", FastClock)
    monkeypatch.setattr(sending, "_ASK_AGAIN_S", sending._ASK_AGAIN_S / SPEED)
    monkeypatch.setattr(sending, "_UNKNOWN_AFTER_S", sending._UNKNOWN_AFTER_S / SPEED)
    monkeypatch.setattr(call, "_PRECHARGE_WAITS_S", (0.001, 0.001, None))
    monkeypatch.setattr(call, "_PRECHARGE_WAIT_MAX_S", 0.001)
