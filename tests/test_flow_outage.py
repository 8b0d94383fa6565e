"""A service that goes away and comes back, or that no longer lets us in: over a real socket.

`DREAMO_CHAOS=1` keeps the service away for as long as real outages last.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

import dreamo_batch as dreamo
from dreamo_batch.display.progress import LoggedProgress
from tests.fakes import picture
from tests.fast_clock import speed_up
from tests.flows import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

IS_LONG = bool(os.environ.get("DREAMO_CHAOS"))
AWAY_S = 30.0 if IS_LONG else 0.5
N_ROWS = 40
KEY = "key-of-the-tests"
N_WORKERS = 16


class Begun(dreamo.FaultPlan):
    """Has the faults given from the tenth create on."""

    def __init__(self, **faults: dict[str, float]) -> None:
        super().__init__()
        self._faults = faults
        self._n_creates = 0
        self.is_begun = threading.Event()

    def draw(self, stage: Any, state: str | None = None) -> Any:
        self._n_creates += stage == "create"
        if self._n_creates == 10 and not self.is_begun.is_set():
            self.set(self._faults)
            self.is_begun.set()
        return super().draw(stage, state)


class Job:
    """A table on its way in a thread, and what was said meanwhile."""

    read_timeout_s = 30.0

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = folder / "reference.png"
        image.write_bytes(picture(size=(64, 64)))
        self.table = dreamo.sweep(image=image, prompt="a fox", seed=range(N_ROWS), size="512x512")
        self.folder = folder
        self.port = free_port()
        self.said: list[str] = []
        self.results: Any = None
        self.stopped: BaseException | None = None
        monkeypatch.setattr(LoggedProgress, "say", lambda _, text, *__: self.said.append(text))
        self._thread = threading.Thread(target=self._run)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def gateway(self, **options: Any) -> dreamo.LocalGateway:
        settings = {"engine": "flat", "latency": "fixed:0.3", "api_key": KEY, "port": self.port}
        return dreamo.LocalGateway(self.folder / "service", **{**settings, **options})

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._thread.join(120 + 3 * AWAY_S)
        assert not self._thread.is_alive(), "the run does not go on by itself"

    def run(self) -> Any:
        with dreamo.Client(api_key=KEY, base_url=self.base_url, read_timeout_s=self.read_timeout_s) as client:
            return dreamo.run(self.table, self.folder / "run", client=client, max_in_flight=8, progress=False)

    def _run(self) -> None:
        try:
            self.results = self.run()
        except dreamo.RunStopped as stopped:
            self.stopped, self.results = stopped, stopped.results


@pytest.fixture
def job(tmp_path, monkeypatch):
    return Job(tmp_path, monkeypatch)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Take every connection and never answer."""
    taken: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", port))

    def take() -> None:
        while True:
            try:
                taken.append(listener.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("kind", ["refusing", "black hole"])
def test_service_that_is_gone_for_a_while_is_waited_for(job, kind):
    """One line says so, no row fails, creates that were on the wire may be in doubt, and the run goes on by itself."""
    job.read_timeout_s, plan = 1.0, Begun()
    with job.gateway(faults=plan):
        job.start()
        assert plan.is_begun.wait(60)
    with black_hole(job.port) if kind == "black hole" else nullcontext():
        until(lambda: n_reported(job) == (1, 0))
        pause(AWAY_S)
    with job.gateway() as gateway:
        job.end()
        check_outage(job, gateway)
    assert n_reported(job) == (1, 1)


def test_service_that_answers_503_for_a_while_is_waited_for(job):
    """Creates answered 503 may have been taken; nothing else is touched."""
    with job.gateway(faults=Begun(create={"http_503": 1.0}, poll={"http_503": 1.0})) as gateway:
        job.start()
        until(lambda: n_reported(job) == (1, 0))
        pause(AWAY_S)
        gateway.faults.change({"clear": True})
        job.end()
        check_outage(job, gateway)
    assert n_reported(job) == (1, 1)


def n_reported(job: Job) -> tuple[int, int]:
    """Count the lines that tell of the outage, and of its end."""
    return (
        sum("Service unreachable" in line for line in job.said),
        sum("is back; resuming" in line for line in job.said),
    )


def check_outage(job: Job, gateway: dreamo.LocalGateway) -> None:
    assert job.stopped is None, job.stopped
    statuses = job.results["status"].value_counts().to_dict()
    assert {name for name, n in statuses.items() if n} <= {"completed", "ambiguous"}
    assert statuses.get("ambiguous", 0) <= N_WORKERS
    assert job.results.loc[job.results["status"] == "completed", "output_error"].isna().all()
    seeds = [line["seed"] for line in gateway.invoice()]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("status", [401, 402, 403])
def test_refused_access_stops_ordering_and_what_is_in_flight_finishes(job, status):
    """One error in the service's words; after the key or the credit is mended the same call goes on."""
    with job.gateway(faults=Begun(create={f"http_{status}": 1.0})) as gateway:
        job.start()
        job.end()
        n_taken = len(gateway.invoice())
        assert isinstance(job.stopped, dreamo.AccessRefused)
        assert str(status) in str(job.stopped)
        assert job.results["status"].value_counts()[["completed", "pending"]].to_list() == [
            n_taken,
            N_ROWS - n_taken,
        ]
        assert sum(str(status) in line for line in job.said) == 0
        gateway.faults.change({"clear": True})
        assert (job.run()["status"] == "completed").all()
        assert len(gateway.invoice()) == N_ROWS


def test_service_that_refuses_every_create_is_left_in_time(job, monkeypatch):
    """One line says that nothing is taken, one error ends the call, no row fails, and the same call goes on later."""
    speed_up(monkeypatch)
    with job.gateway() as gateway:
        gateway.faults.set({"create": {"http_429": 1.0}})
        with (
            dreamo.Client(api_key=KEY, base_url=job.base_url) as client,
            pytest.raises(dreamo.ServiceUnreachable, match="every request with 429") as stopped,
        ):
            dreamo.run(job.table, job.folder / "run", client=client, task_timeout_s=120, progress=False)
        assert (stopped.value.results["status"] == "pending").all()
        assert sum(line.startswith("Rate limited (429)") for line in job.said) == 1
        assert gateway.invoice() == []
        gateway.faults.change({"clear": True})
        assert (job.run()["status"] == "completed").all()
        assert len(gateway.invoice()) == N_ROWS
