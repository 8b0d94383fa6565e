"""A server on loopback that answers with exactly the bytes a test wrote down, however broken they are."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

# Self-signed, for gateway.test, localhost and 127.0.0.1; worth nothing anywhere else.
CERTIFICATE = Path(__file__).parent / "gateway_test.pem"

# What is done with one request: bytes are sent, a function is called.
Steps = bytes | Callable[[socket.socket], None]

CREATED = b'{"id": "cq0example", "created_at": 1700000000, "status": "in_progress", "model": "spark_dreamo"}'


def answer(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """Write an HTTP answer; `Content_Length="9"` and the like replace what is right."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))} | named
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Some Words\r\n{head}\r\n".encode() + body


@cache
def packed(n_bytes: int) -> bytes:
    """Pack so many spaces, which are a thousandth of that on the wire."""
    return gzip.compress(b" " * n_bytes, compresslevel=1)


def bomb(n_bytes: int, **headers: str) -> Callable[[socket.socket], None]:
    """Answer with what unpacks to so many bytes; it is made when it is sent, not where tests are collected."""
    return lambda connection: connection.sendall(answer(packed(n_bytes), Content_Encoding="gzip", **headers))


def close(connection: socket.socket) -> None:
    """End the connection as a server does that goes away."""
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """End the connection as a server does that crashes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionAbortedError  # and with it everything that holds the connection is closed


def then(*steps: Any) -> Callable[[socket.socket], None]:
    """Do several things with one request: bytes are sent, functions called."""

    def all_of_them(connection: socket.socket) -> None:
        for step in steps:
            connection.sendall(step) if isinstance(step, bytes) else step(connection)

    return all_of_them


@dataclass
class Received:
    """One request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes
    n_connection: int


@dataclass
class ScriptedServer:
    """Takes the next step of its script for every request; when it is used up, the last one again."""

    script: list[Any] = field(default_factory=lambda: [answer(CREATED)])
    is_tls: bool = False
    requests: list[Received] = field(default_factory=list)
    n_connections: int = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.hang_up()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        return f"http{'s' if self.is_tls else ''}://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        """Close every open connection."""
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.n_connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.n_connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket, n_connection: int) -> None:
        with plain, suppress(OSError):
            connection = to_tls(plain) if self.is_tls else plain
            with connection:
                self._answer_all(connection, n_connection)

    def _answer_all(self, connection: socket.socket, n_connection: int) -> None:
        with connection.makefile("rb") as reader:
            while (request := read_request(reader, n_connection)) is not None:
                self.requests.append(request)
                step = self.script[min(len(self.requests), len(self.script)) - 1]
                connection.sendall(step) if isinstance(step, bytes) else step(connection)


def to_tls(connection: socket.socket) -> ssl.SSLSocket:
    """Take the server's part of a TLS handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context.wrap_socket(connection, server_side=True)


def read_request(reader: Any, n_connection: int) -> Received | None:
    """Read one request off a connection, or None at its end."""
    line = reader.readline().decode("latin-1").strip()
    headers = {}
    while header := reader.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    return Received(line, headers, body, n_connection) if line else None
