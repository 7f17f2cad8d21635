"""A small HTTP server in the place of vLLM's, for its answers and its faults."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOO_LONG, BROKEN, HANGS, LIES, DRIPS = 70_001, 70_002, 70_003, 70_004, 70_005
"""First tokens of prompts that the server does something else about."""

Compute = Callable[[dict[str, Any], Mapping[str, str]], None]


class CompletionServer(ThreadingHTTPServer):
    """Serves ``/v1/completions`` on a free port.

    Args:
        compute: What an engine does of a request, given its body and headers.
    """

    daemon_threads = True

    def __init__(self, compute: Compute) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.compute = compute
        self.asked: list[dict[str, Any]] = []
        self.under_way = self.most = 0
        self.hanging = threading.Event()
        self.go_on = threading.Event()
        self.left_alone = threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: CompletionServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.asked.append({"path": self.path, **body})
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        try:
            self._serve(body)
        finally:
            with server.lock:
                server.under_way -= 1

    def _serve(self, body: dict[str, Any]) -> None:
        first = body["prompt"][0]
        if first == TOO_LONG:
            message = "This model's maximum context length is 20 tokens."
            self._answer(400, {"error": {"message": message}})
        elif first == BROKEN:
            self._answer(500, {"error": {"message": "out of memory"}})
        elif first == HANGS:
            self.server.hanging.set()
            self.server.go_on.wait(30)
        elif first == DRIPS:
            self._drip()
        else:
            if first != LIES:
                self.server.compute(body, self.headers)  # type: ignore[arg-type]
            self._answer(200, {"choices": [{"text": "x"}]})

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        """Answer a byte now and then, for as long as somebody listens."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while not self.server.go_on.wait(0.02):
                self.wfile.write(b" ")
            return
        self.server.left_alone.set()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def completions(compute: Compute) -> Iterator[CompletionServer]:
    """A server that serves meanwhile."""
    with CompletionServer(compute) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()
