"""A local gateway in a process of its own, so that it does not share the interpreter it is measured against."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVE = """
import json, sys
from dreamo_batch.gateway import LocalGateway
with LocalGateway(**json.loads(sys.argv[1])) as gateway:
    print(json.dumps({"base_url": gateway.base_url, "api_key": gateway.api_key}), flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where it listens, and its key."""

    base_url: str
    api_key: str


@contextmanager
def gateway(**options: Any) -> Iterator[Gateway]:
    """Run a gateway with the flat engine and these options until the block ends."""
    with _served("-c", _SERVE, json.dumps({"engine": "flat", **options})) as served:
        yield served


@contextmanager
def instant_service(*latency: float) -> Iterator[Gateway]:
    """Run the service of `instant.py` until the block ends; mu, sigma and seed make its tasks' times log-normal."""
    with _served(str(Path(__file__).with_name("instant.py")), *map(str, latency)) as served:
        yield served


@contextmanager
def _served(*arguments: str) -> Iterator[Gateway]:
    command = [sys.executable, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Gateway(**json.loads(process.stdout.readline()))
        process.communicate()
