"""The same work and the same bad luck for every tool."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image

from tests.peers.evidence import Evidence, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.benchmarks.gateway import Gateway

PROMPTS = ("on a beach", "in the snow", "in a forest", "on a train", "at night", "under water")
SEEDS = range(10)
N_RUNS_MAX = 5
# Answers in time: it only keeps the place of a create between two that are struck.
HARMLESS = {"fault": "slow", "seconds": 0}
DROPS = (*[HARMLESS] * 19, "drop_after_accept") * 3
N_ORDERS_AT_STROKE = 24
RUN_TIMEOUT_S = 180

Row = tuple[int, str, str, int]
JOBS: list[Row] = [
    (index, "reference.png", prompt, seed)
    for index, (prompt, seed) in enumerate((prompt, seed) for prompt in PROMPTS for seed in SEEDS)
]


@dataclass(frozen=True, slots=True)
class Interrupt:
    """What Ctrl-C came to."""

    until_exit_s: float
    n_submitted_after: int


class BadDay:
    """One tool's way through all of it, each part in a folder of its own."""

    def __init__(self, command: list[str], folder: Path, gateway: Gateway) -> None:
        self._command = command
        self._folder = folder
        self._gateway = gateway
        self._evidence = Evidence(gateway)
        self.interrupt = Interrupt(0.0, 0)
        self.n_runs_after_drops = 0

    def plain(self) -> Verdict:
        folder = self._begin("plain")
        self._finish(self._start(folder))
        return self._evidence.judge(folder)

    def again(self) -> Verdict:
        return self._after_plain("again", lambda jobs: jobs)

    def reordered(self) -> Verdict:
        return self._after_plain("reordered", lambda jobs: random.Random(7).sample(jobs, len(jobs)))

    def one_row_added(self) -> Verdict:
        added = (len(JOBS), "reference.png", PROMPTS[0], len(SEEDS))
        return self._after_plain("added", lambda jobs: [added, *jobs])

    def drops(self) -> Verdict:
        folder = self._begin("drops")
        self._evidence.script(*DROPS)
        self.n_runs_after_drops = self._repeat(folder)
        self._evidence.script()
        return self._evidence.judge(folder)

    def kill(self) -> Verdict:
        folder = self._begin("kill")
        process = self._start_and_wait(folder)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._repeat(folder)
        return self._evidence.judge(folder)

    def ctrl_c(self) -> Verdict:
        folder = self._begin("ctrl-c")
        process = self._start_and_wait(folder)
        n_before, begin_s = len(self._evidence.attempts()), time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        self._finish(process)
        self.interrupt = Interrupt(time.monotonic() - begin_s, len(self._evidence.attempts()) - n_before)
        self._repeat(folder)
        return self._evidence.judge(folder)

    def _begin(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), "orange").save(folder / "reference.png")
        _write(JOBS, folder)
        self._evidence = Evidence(self._gateway)
        return folder

    def _after_plain(self, name: str, change: Callable[[list[Row]], list[Row]]) -> Verdict:
        """Go on in a copy of the finished folder."""
        folder, n_extra_before = self._folder / name, self._evidence.n_extra()
        shutil.copytree(self._folder / "plain", folder)
        _write(change(JOBS), folder)
        is_refused = self._finish(self._start(folder)) != 0
        verdict = self._evidence.judge(folder, is_refused=is_refused)
        return replace(verdict, n_extra=verdict.n_extra - n_extra_before)

    def _repeat(self, folder: Path) -> int:
        """Run until every row is right, or a run changed nothing; tell how many runs it took."""
        before = None
        for n_runs in range(1, N_RUNS_MAX + 1):
            self._finish(self._start(folder))
            now = len(self._evidence.attempts()), self._evidence.n_right(folder)
            if now in (before, (now[0], len(JOBS))):
                return n_runs
            before = now
        return N_RUNS_MAX

    def _start_and_wait(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start, and come back in the middle of the work."""
        process = self._start(folder)
        while len(self._evidence.attempts()) < N_ORDERS_AT_STROKE and process.poll() is None:
            time.sleep(0.02)
        return process

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        env = {**os.environ, "SERVICE_URL": self._gateway.base_url, "SERVICE_KEY": self._gateway.api_key}
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def _finish(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def _write(jobs: list[Row], folder: Path) -> None:
    with (folder / "jobs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("Index", "image", "prompt", "seed"))
        writer.writerows(jobs)
