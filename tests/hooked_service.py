"""A small service on loopback that a test can interrupt: hooks may answer a request in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.fakes import picture
from tests.scripted_server import Received, ScriptedServer, answer, read_request

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.scripted_server import Steps

KEY = "sk-never-shown"


def said(status: int = 200, /, **fields: Any) -> bytes:
    """Write an answer of JSON."""
    return answer(json.dumps(fields).encode(), status)


@dataclass
class HookedService(ScriptedServer):
    """Accepts every create and completes it at once, unless a hook returns an answer of its own.

    `on_create` and `on_price` get the parameters, `on_poll` and `on_file` the task's id, and all of them the number
    of requests of their kind so far.
    """

    on_create: Callable[[dict[str, Any], int], Steps | None] = lambda _params, _n: None
    on_poll: Callable[[str, int], Steps | None] = lambda _task_id, _n: None
    on_file: Callable[[str, int], Steps | None] = lambda _task_id, _n: None
    on_price: Callable[[dict[str, Any], int], Steps | None] = lambda _params, _n: answer(b"{}", 404)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def completed(self, task_id: str, **changes: Any) -> bytes:
        """Say that a task has ended with a picture."""
        output = [{"content": [{"type": "image", "url": f"{self.url}/file/{task_id}.png"}]}]
        whole = {"id": task_id, "status": "completed", "output": output, "usage": {"cost": "0.03"}}
        return said(**(whole | changes))

    def _answer_all(self, connection: socket.socket, n_connection: int) -> None:
        with connection.makefile("rb") as reader:
            while (request := read_request(reader, n_connection)) is not None:
                self.requests.append(request)
                step = self._answer(request)
                connection.sendall(step) if isinstance(step, bytes) else step(connection)

    def _answer(self, request: Received) -> Steps:
        path = request.line.split()[1].partition("?")[0]
        if path.endswith("/precharge"):
            params = json.loads(request.body)["input"][0]["params"]
            return self.on_price(params, self._n("price")) or answer(b"{}", 404)
        if request.line.startswith("POST"):
            params = json.loads(request.body)["input"][0]["params"]
            return self.on_create(params, self._n("create")) or self._taken(params)
        name = path.rpartition("/")[2]
        if "/file/" in path:
            task_id = name.partition(".")[0]
            return self.on_file(task_id, self._n("file")) or self._picture(task_id)
        if "/task/" in path:
            step = self.on_poll(name, self._n("poll"))
            return step or (
                self.completed(name) if name in self.tasks else said(404, message="Task not found")
            )
        return said(ok=True)

    def _taken(self, params: dict[str, Any]) -> bytes:
        task_id = f"task{len(self.tasks) + 1:04d}"
        self.tasks[task_id] = params
        return said(id=task_id, status="in_progress")

    def _picture(self, task_id: str) -> bytes:
        side = 8 + list(self.tasks).index(task_id)
        return answer(picture(size=(side, 8)), Content_Type="image/png")

    def _n(self, kind: str) -> int:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return self.counts[kind]
