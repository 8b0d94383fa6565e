"""Whole runs against a service that answers with malice: nothing crashes, hangs, grows or gives the key away."""

from __future__ import annotations

import csv
import json
import logging
import re
import threading
import time
import traceback
import tracemalloc
from typing import TYPE_CHECKING, Any

import openpyxl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dreamo_batch as dreamo
from dreamo_batch.engine import pictures
from dreamo_batch.service.config import resolve
from tests.cli_sweep import call, signals_kept
from tests.fakes import picture
from tests.fast_clock import speed_up
from tests.flows import IS_LONG
from tests.scripted_server import Received, ScriptedServer, answer, bomb, close, packed, read_request, then

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

# Other tests reach the same lines; measuring these would double their time.
pytestmark = pytest.mark.no_cover

KEY = "sk-Secret/Key+42-that-nobody-may-see"
READ_TIMEOUT_S = 0.3
TASK_TIMEOUT_S = 60  # of the fast clock
LONGEST_S = 20.0
# Two pictures are fetched at once, and each is held twice while its parts are joined.
MEMORY_MAX_BYTES = 4 * pictures.PICTURE_BYTES_MAX + 32 * 1024 * 1024
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
DEEP = b'{"id":' * 50_000


class HostileServer(ScriptedServer):
    """Answers by what is asked: `steps` maps create, poll, file and probe to what is done."""

    steps: dict[str, Any]

    def _answer_all(self, connection: socket.socket, n_connection: int) -> None:
        with connection.makefile("rb") as reader:
            while (request := read_request(reader, n_connection)) is not None:
                self.requests.append(request)
                step = self.steps[kind_of(request)]
                step = step(self) if step in MADE else step
                connection.sendall(step) if isinstance(step, bytes) else step(connection)


def kind_of(request: Received) -> str:
    if request.line.startswith("POST"):
        return "create"
    for part, kind in (("/task/", "poll"), ("/file", "file")):
        if part in request.line:
            return kind
    return "probe"


def completed(server: HostileServer) -> bytes:
    output = [{"content": [{"type": "image", "url": f"{server.url}/file.png"}]}]
    return said(id="cq0example", status="completed", output=output, usage={"cost": "0.01"})


def said(status: int = 200, /, **fields: Any) -> bytes:
    return answer(json.dumps(fields).encode(), status)


def endless(chunk: bytes, head: bytes) -> Callable[[socket.socket], None]:
    """Send for as long as somebody reads."""

    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(chunk)

    return send


def dripping(connection: socket.socket) -> None:
    """Send a byte at a time, often enough that no single read times out."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
    pause = threading.Event()
    while not pause.wait(READ_TIMEOUT_S / 6):
        connection.sendall(b" ")


WORDS = [
    "id",
    "status",
    "output",
    "content",
    "url",
    "usage",
    "cost",
    "error",
    "code",
    "message",
    "data",
    "metadata",
]
MADE = (completed,)
UNBOUNDED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
BOMB_BYTES = 200_000_000
RIGHT = {
    "create": said(id="cq0example", status="in_progress"),
    "poll": completed,
    "file": answer(picture(), Content_Type="image/png"),
    "probe": answer(b"{}"),
}


def odd(key: str) -> dict[str, Any]:
    """Give what is answered; whoever was shown a key shows it again."""
    words = f"\x1b]0;owned\x07\x1b[2J\r\u202e<script>alert('{key}')</script>=HYPERLINK(\"http://x\"),{key}\n"
    echo = {"error": {"code": key, "message": words}}
    return {
        "words": said(400, **echo),
        "words in 200": said(200, **echo),
        "words in 401": said(401, **echo),
        "words in 500": said(500, **echo),
        "page": answer(f"<html><script>{words}</script></html>".encode(), Content_Type="text/html"),
        "redirect": answer(b"", 307, Location=f"http://localhost:9/{key}"),
        "redirect to a file": answer(b"", 302, Location="file:///etc/passwd"),
        "endless": endless(b" " * 65536, UNBOUNDED),
        "endless header": endless(b"X-A: b\r\n", b"HTTP/1.1 200 OK\r\n"),
        "huge header": answer(b"{}", X_Key=key * 4000),
        "dripping": dripping,
        "bomb": bomb(BOMB_BYTES),
        "deep": answer(DEEP),
        "wrong length": then(answer(b"{", Content_Length="99999"), close),
        "no http": then(key.encode(), b"\x00\xff\r\n\r\n", close),
        "not a number": answer(b'{"id": 1e999999, "usage": {"cost": NaN}, "status": [[]]}'),
    }


_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture
def _fast_clock(monkeypatch):
    speed_up(monkeypatch)


@pytest.fixture
def table(tmp_path):
    image = tmp_path / "reference.png"
    image.write_bytes(picture(size=(64, 64)))
    return dreamo.sweep(image=image, prompt=["a fox", "\x1b[31m<b>=1+1</b>"], seed=1, size="512x512")


def run(
    table: pd.DataFrame, run_dir: Path, url: str, read_timeout_s: float = 30.0, task_timeout_s: float = 1e6
) -> tuple[pd.DataFrame | None, str]:
    """Give the results, and what a traceback of the error would show."""
    settings = resolve(api_key=KEY, base_url=url, connect_timeout_s=10.0, read_timeout_s=read_timeout_s)
    with dreamo.Client(settings=settings) as client:
        try:
            done = dreamo.run(table, run_dir, client=client, max_in_flight=1, task_timeout_s=task_timeout_s)
        except dreamo.RunStopped as stopped:
            return stopped.results, "".join(traceback.format_exception(stopped))
        return done, ""


@pytest.mark.usefixtures("_fast_clock")
@pytest.mark.parametrize("stage", ["create", "poll", "file"])
@pytest.mark.parametrize("what", odd(""))
def test_hostile_service_is_survived_and_gives_no_key_away(request, stage, what, table, tmp_path):
    """Whatever one stage answers, the run ends in time and within bounds, and the key is nowhere to be read."""
    capfd, caplog = (request.getfixturevalue(name) for name in ("capfd", "caplog"))
    key = "sk-of-nobody" if stage == "file" else KEY  # who serves pictures is never shown it
    with HostileServer() as server, caplog.at_level(logging.DEBUG):
        server.steps = RIGHT | {stage: odd(key)[what]}
        packed(BOMB_BYTES)  # whose making isn't measured
        tracemalloc.start()
        began = time.monotonic()
        results, shown = run(table, tmp_path / "run", server.url, READ_TIMEOUT_S, TASK_TIMEOUT_S)
        took_s, (_, peak_bytes) = time.monotonic() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        headers = [request.headers for request in server.requests if kind_of(request) == "file"]

    assert results is not None
    assert len(results) == len(table)
    assert took_s < LONGEST_S
    assert peak_bytes < MEMORY_MAX_BYTES
    assert all("authorization" not in sent for sent in headers)
    out = "".join(capfd.readouterr())
    assert CONTROL.sub("", out.replace("\r", "")) == out.replace("\r", ""), "a control character was shown"
    assert not CONTROL.search(shown)
    for place in (out, shown, caplog.text, results.to_csv(), repr(results), *texts(tmp_path / "run")):
        assert KEY not in place


LINKS = {
    "a file": "file:///etc/passwd",
    "another scheme": "gopher://127.0.0.1:70/_x",
    "script": "javascript:alert(1)",
    "data": "data:image/png;base64,AAAA",
    "user information": "http://me:secret@127.0.0.1:9/file.png",
    "no host": "http:///file.png",
    "no port": "http://127.0.0.1:99999/file.png",
    "a header": "{0}/file.png\r\nAuthorization: Bearer x",
    "a path": "{0}/file.png/../../../../etc/cron.d/x",
    "a long one": "{0}/file.png?" + "a" * 100_000,
    "nobody there": "http://127.0.0.1:9/file.png",
    "a host that can't be": "http://[::1/file.png",
    "no text": 7,
    "a list": ["{0}/file.png"],
}


@pytest.mark.usefixtures("_fast_clock")
@pytest.mark.parametrize("name", LINKS)
def test_a_hostile_link_opens_nothing_but_a_picture_over_http(name, table, tmp_path):
    """The row is completed and paid for, its picture is saved or why not is told, and nothing else is touched."""
    files_before = {path for path in tmp_path.rglob("*") if path.is_file()}
    with HostileServer() as server:
        link = LINKS[name]
        url = link.replace("{0}", server.url) if isinstance(link, str) else link
        output = [{"content": [{"type": "image", "url": url}]}]
        server.steps = RIGHT | {
            "poll": said(id="cq0example", status="completed", output=output, usage={"cost": "0.01"})
        }
        results, shown = run(table.head(1), tmp_path / "run", server.url)
        asked = [request for request in server.requests if kind_of(request) == "file"]
    assert not shown
    assert (results["status"] == "completed").all()
    assert results["cost"].tolist() == ["0.01"]
    assert (results["output_path"].notna() ^ results["output_error"].notna()).all()
    assert all("authorization" not in request.headers for request in asked)
    new = {path for path in tmp_path.rglob("*") if path.is_file()} - files_before
    assert all((tmp_path / "run") in path.parents for path in new)
    pictures = {f"images/{path.name}" for path in new if path.parent.name == "images"}
    assert pictures == set(results["output_path"].dropna())


HOSTS = {
    "to a file": [answer(b"", 302, Location="file:///etc/passwd")],
    "to another scheme": [answer(b"", 307, Location="ftp://127.0.0.1/x")],
    "to a password": [answer(b"", 302, Location="http://me:secret@127.0.0.1:9/")],
    "in circles": [answer(b"", 302, Location="/file.png")],
    "to nowhere": [answer(b"", 302)],
    "a page": [answer(b"<html>busy</html>", Content_Type="image/png")],
    "a bomb": [bomb(BOMB_BYTES, Content_Type="image/png")],
    "endless": [endless(b"\x89PNG" * 16384, UNBOUNDED)],
    "half a picture": [answer(picture()[: len(picture()) // 2], Content_Type="image/png")],
    "a length of a petabyte": [then(answer(picture(), Content_Length=str(10**15)), close)],
}


@pytest.mark.usefixtures("_fast_clock")
@pytest.mark.parametrize("name", HOSTS)
def test_a_hostile_host_of_pictures_costs_pictures_and_nothing_else(name, table, tmp_path):
    """Another host than the service's: rows are completed, errors told, memory is bounded, and no key goes there."""
    with HostileServer() as server, ScriptedServer(HOSTS[name]) as host:
        output = [{"content": [{"type": "image", "url": f"{host.url}/file.png"}]}]
        server.steps = RIGHT | {
            "poll": said(id="cq0example", status="completed", output=output, usage={"cost": "0.01"})
        }
        packed(BOMB_BYTES)  # whose making isn't measured
        tracemalloc.start()
        results, _ = run(table.head(1), tmp_path / "run", server.url)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < MEMORY_MAX_BYTES
    assert (results["status"] == "completed").all()
    assert results["output_error"].notna().all()
    assert not list((tmp_path / "run").glob("images/*"))
    assert host.requests
    assert all("authorization" not in request.headers for request in host.requests)
    assert KEY not in "".join(results["output_error"])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["completed", "failed", "in_progress", "cq0example", "0.01", "{0}/file.png"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.usefixtures("_fast_clock")
@given(
    st.sampled_from(["create", "poll"]),
    st.dictionaries(st.sampled_from(WORDS), json_values, max_size=6) | json_values,
    st.sampled_from([200, 200, 200, 400, 429, 500]),
)
@settings(max_examples=500 if IS_LONG else 12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_makes_a_run_crash_or_hang(table, tmp_path_factory, stage, value, status):
    """Anything at all in any field at any depth ends in statuses, and what was taken stands in the ledger."""
    body = json.dumps(value).replace("{0}", "http://127.0.0.1:9").encode()
    with HostileServer() as server:
        server.steps = RIGHT | {stage: answer(body, status)}
        began = time.monotonic()
        run_dir = tmp_path_factory.mktemp("any") / "run"
        results, _ = run(table, run_dir, server.url, READ_TIMEOUT_S, TASK_TIMEOUT_S)
        n_creates = sum(kind_of(request) == "create" for request in server.requests)
    assert time.monotonic() - began < LONGEST_S
    assert results is not None
    n_taken_or_doubtful = (results["attempts"].fillna(0) > 0).sum()
    assert n_taken_or_doubtful <= len(table)
    assert n_creates <= len(table) or status == 429


def texts(run_dir: Path) -> list[str]:
    """Everything that can be read in a run directory: file names, bytes as they are, and unpacked tables."""
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    tables = [pq.read_table(path) for path in files if path.suffix == ".parquet"]
    unpacked = [f"{table.to_pylist()} {table.schema.metadata}" for table in tables]
    return [*map(str, files), *(path.read_bytes().decode("latin-1") for path in files), *unpacked]


def test_words_of_prompts_and_services_are_shown_harmlessly_and_stored_verbatim(tmp_path, table):
    """A terminal gets no control characters and a spreadsheet no formula; CSV, JSON and Parquet hold what was said."""
    words = odd("")["words"]
    table["prompt"] = prompts = ["=1+1", "\x1b[31m<b>red</b>"]
    with HostileServer() as server:
        server.steps = RIGHT | {"create": words}
        run_dir = tmp_path / "run"
        results, _ = run(table, run_dir, server.url)
    told = json.loads(words.partition(b"\r\n\r\n")[2])["error"]["message"].strip()

    shown = [call("results", run_dir, "--format", "table"), call("status", run_dir)]
    assert all(result.exit_code == 0 and not CONTROL.search(result.output) for result in shown)
    assert "\\x1b]0;owned" in shown[0].stdout
    assert "<script>" not in results._repr_html_()

    assert results["error_message"].tolist() == [told, told]
    assert [
        line["prompt"] for line in json.loads(call("results", run_dir, "--format", "json").stdout)
    ] == prompts
    files = {name: tmp_path / name for name in ("results.csv", "results.parquet", "results.xlsx")}
    for path in files.values():
        assert call("results", run_dir, "--output", path).exit_code == 0
    assert pq.read_table(files["results.parquet"])["error_message"].to_pylist() == [told, told]
    with files["results.csv"].open(encoding="utf-8", newline="") as file:
        assert [row["prompt"] for row in csv.DictReader(file)] == prompts
    cells = [cell for row in openpyxl.load_workbook(files["results.xlsx"]).active.iter_rows() for cell in row]
    assert "=1+1" in [cell.value for cell in cells]
    assert all(cell.data_type != "f" for cell in cells)
    safe = call("results", run_dir, "--format", "csv", "--excel-safe").stdout
    assert "'=1+1" in safe
