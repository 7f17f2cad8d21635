"""A small HTTP server that is asked in JSON and answers in JSON, in the place of vLLM's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

ServerT = TypeVar("ServerT", bound="JsonServer")


class JsonServer(ThreadingHTTPServer):
    """Serves on a free port.

    Args:
        handler: What is done with a request.

    Attributes:
        go_on: Set when the test is over, so that no request waits longer.
    """

    daemon_threads = True

    def __init__(self, handler: type[JsonHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class JsonHandler(BaseHTTPRequestHandler):
    """Reads and writes; what there is to answer is the subclass's."""

    def body(self) -> dict[str, Any]:
        question: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return question

    def answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # Who asked may have given up.
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: ServerT) -> Iterator[ServerT]:
    """Let a server serve meanwhile."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()
