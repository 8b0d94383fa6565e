"""A service in a process of its own that costs next to nothing; its tasks are done at once, or take their time."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import sys
import time

_IDS = itertools.count()
_MU, _SIGMA, _SEED = map(float, sys.argv[1:]) if len(sys.argv) > 1 else (0.0, 0.0, 0.0)
_RNG = random.Random(_SEED)
_TASKS: dict[str, dict[str, float]] = {}
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"


class Service(asyncio.Protocol):
    """Answers every create with a task id, and every poll with a finished task."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection."""
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        """Answer each request that has arrived whole."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end]).lower()
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            end += 4 + int(length or 0)
            if len(self._received) < end:
                return
            del self._received[:end]
            body = json.dumps(_created() if head.startswith(b"post") else _asked(head.split()[1].decode()))
            self._transport.write(_HEAD % (len(body), body.encode()))


def _created() -> dict[str, object]:
    task_id = f"d{next(_IDS):019d}"
    latency_s = _RNG.lognormvariate(_MU, _SIGMA) if _SIGMA else 0.0
    _TASKS[task_id] = {"accepted_at": time.time(), "latency_s": latency_s}
    return _started(task_id)


def _started(task_id: str) -> dict[str, object]:
    return {"id": task_id, "created_at": 1_790_000_000, "status": "in_progress"}


def _asked(path: str) -> dict[str, object]:
    if path == "/local/invoice":
        return {"tasks": list(_TASKS.values())}
    task_id = path.rpartition("/")[2]
    task = _TASKS[task_id]
    return _started(task_id) if time.time() < sum(task.values()) else _done(task_id)


def _done(task_id: str) -> dict[str, object]:
    picture = {
        "type": "image",
        "url": f"https://pictures.example/{task_id}.png",
        "size": 12345,
        "jobId": task_id,
    }
    return {
        "id": task_id,
        "status": "completed",
        "metadata": {"in_queue_at": 0.0, "completed_at": 0.01},
        "usage": {"cost": "0.0286", "discount": 1},
        "output": [{"content": [picture]}],
    }


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Service, "127.0.0.1", 0, backlog=2048)
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"base_url": f"http://127.0.0.1:{port}", "api_key": "instant-key"}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
