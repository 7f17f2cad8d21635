"""Asking a controller over HTTP, from a command."""

from __future__ import annotations

import functools
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple

import click

from lmcache_core.cli.lazy import RefusedByControllerError
from lmcache_core.config.controller import load_client_config
from lmcache_core.errors import ConfigError, LMCacheError

GRACE_SECONDS = 5.0
"""How much longer than the controller may take its answer is waited for."""

PAGE = 1000


class NoAnswerError(LMCacheError):
    """Nobody answers where the controller should be."""


class Answer(NamedTuple):
    """What a controller has answered.

    Attributes:
        status: The HTTP status, a good one.
        document: The body.
    """

    status: int
    document: Any


class ControllerClient:
    """One controller.

    Args:
        url: Where its routes are.
        token: The bearer token it asks for, or None.
        timeout_seconds: How long it may take for one request.
    """

    def __init__(self, url: str, token: str | None, timeout_seconds: float) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self.timeout_seconds = timeout_seconds

    @classmethod
    def of(cls, url: str | None, token_file: str | None, timeout: float | None) -> ControllerClient:
        """The controller that options and ``LMCACHE_CONTROLLER_*`` name.

        Raises:
            ConfigError: One of them is wrong.
        """
        if url is not None and not url.startswith(("http://", "https://")):
            message = f"--url {url!r} is no address; write for example http://127.0.0.1:9000"
            raise ConfigError(message)
        config = load_client_config(environ=os.environ, flags={"token_file": token_file})
        return cls(url or config.url, config.token, timeout or config.timeout_seconds)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        if_match: str | None = None,
    ) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            RefusedByControllerError: It is a problem document.
            NoAnswerError: There is none.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        url = f"{self._url}{path}" + (
            f"?{urllib.parse.urlencode(given, doseq=True)}" if given else ""
        )
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        if if_match is not None:
            headers["If-Match"] = if_match
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - where its user says
            seconds = self.timeout_seconds + GRACE_SECONDS
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310 - likewise
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 401:
                    raise self._unauthorized() from error
                raise _refusal(error.code, error.read()) from error
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            message = (
                f"no controller answers at {self._url}: {reason}; start one with `lmcache "
                "controller serve`, or say where it is with --url"
            )
            raise NoAnswerError(message) from error

    def pages(self, path: str, key: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """All items of a list that comes in pages."""
        after = None
        while True:
            page = self.ask("GET", path, query={**query, "limit": PAGE, "after": after}).document
            yield from page[key]
            after = page["next"]
            if after is None:
                return

    def _unauthorized(self) -> RefusedByControllerError:
        why = "asks for a token" if self._token is None else "asks for another token"
        return RefusedByControllerError(
            f"the controller at {self._url} {why}; name the file that holds it with --token-file, "
            "or set LMCACHE_CONTROLLER_TOKEN",
            401,
        )


def controller_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which controller is asked, and how its answer is shown.

    The command is called with ``client`` and ``as_json`` for them.
    """

    @functools.wraps(command)
    def run(
        *,
        url: str | None,
        token_file: str | None,
        timeout: float | None,
        **others: Any,  # noqa: ANN401 - the command's own
    ) -> None:
        command(client=ControllerClient.of(url, token_file, timeout), **others)

    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the controller's JSON."),
        click.option(
            "--timeout",
            type=click.FloatRange(0, 300, min_open=True),
            metavar="SECONDS",
            help="How long the controller may take; LMCACHE_CONTROLLER_TIMEOUT_SECONDS, or 10.",
        ),
        click.option(
            "--token-file",
            type=click.Path(),
            help="File with the bearer token; LMCACHE_CONTROLLER_TOKEN if not given.",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="Where the controller is; LMCACHE_CONTROLLER_HOST and _PORT, or "
            "http://127.0.0.1:9000.",
        ),
    ):
        run = option(run)
    return run


def show(document: object) -> None:
    """Print an answer as JSON."""
    click.echo(json.dumps(document, indent=2))


def _refusal(status: int, body: bytes) -> RefusedByControllerError:
    try:
        problem = json.loads(body)
        detail = problem["detail"]
    except (ValueError, TypeError, KeyError):
        return RefusedByControllerError(
            f"the controller answered {status} without a reason", status
        )
    facts = ", ".join(f"{name} {value}" for name, value in (problem.get("facts") or {}).items())
    return RefusedByControllerError(f"{detail} ({facts})" if facts else detail, status)
