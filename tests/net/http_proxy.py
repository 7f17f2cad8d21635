"""A way to a server that answers some requests itself, as ill servers do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

Answer = Callable[[str, str, Mapping[str, str]], int | None]
HOP = {"connection", "transfer-encoding", "keep-alive"}


class HttpProxy:
    """Forwards requests, unless ``answer`` has a status for them.

    Args:
        port: Of the server, on this machine.

    Attributes:
        answer: Asked with method, path and headers of each request.
        dropped: Lower-case names of headers that are not forwarded.
        seen: Method and path of each request.
    """

    def __init__(self, port: int) -> None:
        self.answer: Answer = lambda _method, _path, _headers: None
        self.dropped: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.seen.append((self.command, self.path))
                status = proxy.answer(self.command, self.path, self.headers)
                if status is not None:
                    self.reply(status, {}, b"" if self.command == "HEAD" else complaint(status))
                    return
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() not in proxy.dropped
                }
                connection = HTTPConnection("127.0.0.1", port, timeout=30)
                with closing(connection):
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    self.reply(answer.status, dict(answer.getheaders()), answer.read())

            def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in HOP and name.lower() != "content-length":
                        self.send_header(name, value)
                told = headers.get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", told or str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - its names

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                """Clients break connections as they like."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


def complaint(status: int) -> bytes:
    codes = {403: "AccessDenied", 404: "NoSuchBucket", 500: "InternalError", 503: "SlowDown"}
    return (
        f"<Error><Code>{codes.get(status, 'NotImplemented')}</Code>"
        "<Message>so it is</Message></Error>"
    ).encode()
