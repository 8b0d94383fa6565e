"""Whole runs against a service that answers with malice: nothing crashes, hangs, grows or gives the key away."""

from __future__ import annotations

import csv
import gzip
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

import dreamo_batch as dreamo
from dreamo_batch.execution import archive
from dreamo_batch.service.settings import resolve
from tests.cli_sweep import call, signals_kept
from tests.fakes import picture
from tests.hurry import hurry
from tests.scripted_server import Received, ScriptedServer, answer, close, read_request, then

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

KEY = "sk-Secret/Key+42-that-nobody-may-see"
READ_TIMEOUT_S = 0.3
TASK_TIMEOUT_S = 60  # of a clock that is hurried
LONGEST_S = 20.0
# Two pictures are fetched at once, and each is held twice while its parts are joined.
MEMORY_MAX_BYTES = 4 * archive.PICTURE_BYTES_MAX + 32 * 1024 * 1024
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


MADE = (completed,)
UNBOUNDED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
BOMB = gzip.compress(b" " * 200_000_000, compresslevel=1)
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
        "bomb": answer(BOMB, Content_Encoding="gzip"),
        "deep": answer(DEEP),
        "wrong length": then(answer(b"{", Content_Length="99999"), close),
        "no http": then(key.encode(), b"\x00\xff\r\n\r\n", close),
        "not a number": answer(b'{"id": 1e999999, "usage": {"cost": NaN}, "status": [[]]}'),
    }


_kept = pytest.fixture(autouse=True)(signals_kept)


@pytest.fixture
def _hurry(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture
def table(tmp_path):
    image = tmp_path / "reference.png"
    image.write_bytes(picture(size=(64, 64)))
    return dreamo.sweep(image=image, prompt=["a fox", "\x1b[31m<b>=1+1</b>"], seed=1, size="512x512")


def run(table: pd.DataFrame, run_dir: Path, url: str) -> tuple[pd.DataFrame | None, str]:
    """Give the results, and what a traceback of the error would show."""
    settings = resolve(api_key=KEY, base_url=url, connect_timeout_s=1.0, read_timeout_s=READ_TIMEOUT_S)
    with dreamo.Client(settings=settings) as client:
        try:
            done = dreamo.run(table, run_dir, client=client, max_in_flight=1, task_timeout_s=TASK_TIMEOUT_S)
        except dreamo.RunStopped as stopped:
            return stopped.results, "".join(traceback.format_exception(stopped))
        return done, ""


@pytest.mark.usefixtures("_hurry")
@pytest.mark.parametrize("stage", ["create", "poll", "file"])
@pytest.mark.parametrize("what", odd(""))
def test_hostile_service_is_survived_and_gives_no_key_away(request, stage, what, table, tmp_path):
    """Whatever one stage answers, the run ends in time and within bounds, and the key is nowhere to be read."""
    capfd, caplog = (request.getfixturevalue(name) for name in ("capfd", "caplog"))
    key = "sk-of-nobody" if stage == "file" else KEY  # who serves pictures is never shown it
    with HostileServer() as server, caplog.at_level(logging.DEBUG):
        server.steps = RIGHT | {stage: odd(key)[what]}
        tracemalloc.start()
        began = time.monotonic()
        results, shown = run(table, tmp_path / "run", server.url)
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
