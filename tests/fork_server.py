"""Processes that start at once: forked off one that has loaded everything, they run the command as a shell would.

Loading pandas and the rest takes seconds, and says nothing about what a kill does. The process they are forked from
runs no threads, and each child ends as any program does, with its handlers at exit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_PARENT = """
import json, os, runpy, signal, sys
import pandas, pyarrow.parquet, requests, PIL.Image, tqdm
import dreamo_batch
import dreamo_batch.cli, dreamo_batch.verbs, dreamo_batch.results.load
for name in dreamo_batch.__all__:
    getattr(dreamo_batch, name)

def serve():
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "args" in asked:
            pid = os.fork()
            if pid == 0:
                return asked
            answer = pid
        else:
            pid, status = os.waitpid(asked["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)
    return None

asked = serve()
if asked is not None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing, errors = os.open(os.devnull, os.O_RDWR), os.open(asked["errors"], os.O_WRONLY | os.O_CREAT, 0o600)
    for fd, stream in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(fd, stream)
    os.environ.update(asked["env"])
    sys.argv = ["dreamo-batch", *asked["args"]]
    if asked["code"] is None:
        runpy.run_module("dreamo_batch", run_name="__main__")
    else:
        exec(asked["code"], {"__name__": "__main__"})
"""


@dataclass(frozen=True, slots=True)
class Child:
    """One running command; `errors` is what it writes to standard error."""

    fork_server: ForkServer
    pid: int
    errors: Path

    def poll(self) -> int | None:
        """Give the exit code, negative after a signal; None while it runs."""
        code = self.fork_server.codes.get(self.pid)
        if code is None:
            code = self.fork_server.ask({"pid": self.pid})
            if code is not None:
                self.fork_server.codes[self.pid] = code
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"it still runs after {timeout_s} s"
            time.sleep(0.005)
        return code


class ForkServer:
    """Starts `dreamo-batch` commands."""

    def __enter__(self) -> Self:
        # Whoever is killed leaves no measurement of coverage, and measuring would slow all of them down.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self.codes: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.communicate()

    def start(
        self, args: Sequence[str], env: Mapping[str, str], errors: Path, code: str | None = None
    ) -> Child:
        """Start the command, or a script in its place."""
        errors.unlink(missing_ok=True)
        pid = self.ask({"args": list(args), "env": dict(env), "errors": str(errors), "code": code})
        self.codes.pop(pid, None)  # of a process long gone: the system uses its numbers again
        return Child(self, pid, errors)

    def ask(self, what: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
