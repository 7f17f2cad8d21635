"""Requests over HTTP, and what vLLM says about them."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from examples.pin.quickstart.problem import Problem

TIMEOUT_SECONDS = 120.0
_SETTLE_SECONDS = 5.0
_BY_SOURCE = re.compile(
    r'^vllm:prompt_tokens_cached_by_source_total\{.*source="([^"]+)".*\}\s+([0-9.e+]+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class Reading:
    """What one request showed.

    Attributes:
        seconds: Time to the first token.
        prompt_tokens: Length of the prompt.
        cached_tokens: How many of them were not computed again.
        sources: Where those came from, by vLLM's own metric.
        text: The answer.
    """

    seconds: float
    prompt_tokens: int
    cached_tokens: int
    sources: dict[str, int] = field(default_factory=dict)
    text: str = ""


def curl_line(url: str, body: dict[str, Any]) -> str:
    """Write a request as the ``curl`` command that sends it."""
    data = shlex.quote(json.dumps(body))
    return f"curl -X POST {url} -H 'Content-Type: application/json' -d {data}"


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send JSON and read JSON.

    Raises:
        Problem: The answer is an error, or none came.
    """
    try:
        with urllib.request.urlopen(_request(url, body), timeout=TIMEOUT_SECONDS) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        raise Problem(f"{url} answered {error.code}: {text.strip()}") from error
    except OSError as error:
        raise Problem(f"{url} did not answer: {error}") from error


def get_text(url: str, timeout: float = 10.0) -> str | None:
    """Read a page, or None where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def ask(vllm_url: str, model: str, prompt: str | list[int], max_tokens: int = 8) -> Reading:
    """Complete a prompt as a stream and measure the time to the first token.

    Raises:
        Problem: vLLM did not answer.
    """
    before = cached_by_source(vllm_url)
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.monotonic()
    first: float | None = None
    text, usage = "", None
    try:
        request = _request(f"{vllm_url}/v1/completions", body)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as lines:
            for line in lines:
                event = line.decode().strip().removeprefix("data: ")
                if not event.startswith("{"):
                    continue
                part = json.loads(event)
                if part.get("choices"):
                    first = first or time.monotonic()
                    text += part["choices"][0]["text"]
                usage = part.get("usage") or usage
    except OSError as error:
        raise Problem(f"vLLM did not answer a completion: {error}") from error
    if first is None or usage is None:
        raise Problem("vLLM answered a completion without a token or without its usage")
    cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    return Reading(
        seconds=first - started,
        prompt_tokens=int(usage["prompt_tokens"]),
        cached_tokens=cached,
        sources=_new_sources(vllm_url, before, cached),
        text=text,
    )


def cached_by_source(vllm_url: str) -> dict[str, int]:
    """Read vLLM's counter of cached prompt tokens by the place they came from."""
    page = get_text(f"{vllm_url}/metrics") or ""
    totals: dict[str, int] = {}
    for source, value in _BY_SOURCE.findall(page):
        totals[source] = totals.get(source, 0) + int(float(value))
    return totals


def _new_sources(vllm_url: str, before: dict[str, int], expected: int) -> dict[str, int]:
    """Read what the counter grew by; vLLM may publish it shortly after its answer."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        now = cached_by_source(vllm_url)
        grown = {source: now[source] - before.get(source, 0) for source in now}
        grown = {source: tokens for source, tokens in grown.items() if tokens}
        if sum(grown.values()) >= expected or time.monotonic() > deadline:
            return grown
        time.sleep(0.05)


def _request(url: str, body: dict[str, Any]) -> urllib.request.Request:
    return urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
