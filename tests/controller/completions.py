"""A server in the place of vLLM's that computes prompts, for its answers and its faults."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.net.json_server import JsonHandler, JsonServer, serving

TOO_LONG, BROKEN, HANGS, LIES, DRIPS = 70_001, 70_002, 70_003, 70_004, 70_005
"""First tokens of prompts that the server does something else about."""

Compute = Callable[[dict[str, Any], Mapping[str, str]], None]


class CompletionServer(JsonServer):
    """Serves ``/v1/completions`` on a free port.

    Args:
        compute: What an engine does of a request, given its body and headers.
    """

    def __init__(self, compute: Compute) -> None:
        super().__init__(_Handler)
        self.compute = compute
        self.asked: list[dict[str, Any]] = []
        self.under_way = self.most = 0
        self.hanging = threading.Event()
        self.left_alone = threading.Event()
        self.lock = threading.Lock()


class _Handler(JsonHandler):
    server: CompletionServer

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        body = self.body()
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
            self.answer(400, {"error": {"message": message}})
        elif first == BROKEN:
            self.answer(500, {"error": {"message": "out of memory"}})
        elif first == HANGS:
            self.server.hanging.set()
            self.server.go_on.wait(30)
        elif first == DRIPS:
            self._drip()
        else:
            if first != LIES:
                self.server.compute(body, self.headers)  # type: ignore[arg-type]
            self.answer(200, {"choices": [{"text": "x"}]})

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


@contextmanager
def completions(compute: Compute) -> Iterator[CompletionServer]:
    """A server that serves meanwhile."""
    with serving(CompletionServer(compute)) as server:
        yield server
