"""The story: a prompt is pinned, the cache is flooded, vLLM is restarted, and it is still there."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.pin.quickstart.client import Reading, ask, curl_line, post
from examples.pin.quickstart.problem import Problem
from examples.pin.quickstart.settings import (
    CACHE_TOKENS,
    DISK,
    FLOOD_FACTOR,
    INSTANCE,
    LOCATION,
    LONG_PROMPT_WORDS,
    Settings,
)
from examples.tiny_model.make_tiny_llama import PIN_PROMPT

_SHORT_OTHER = "How can a castle be large in the winter light?"
# The token that begins every sequence is the start of a pinned prompt too.
_SHARED_TOKENS = 1
_WORDS = "river mountain sea island bridge castle garden forest museum station".split()  # noqa: SIM905


@dataclass
class Prompt:
    """A prompt that is asked before and after the flood."""

    name: str
    text: str
    pinned: bool
    readings: list[Reading] = field(default_factory=list)


class Story:
    """One run through the example, shown on a console.

    Args:
        settings: What it runs with.
        console: Where it is shown.
        restart: Stops vLLM, starts it again and waits until it is ready.
    """

    def __init__(self, settings: Settings, console: Console, restart: Callable[[], None]) -> None:
        self._settings = settings
        self._console = console
        self._restart = restart
        self.prompts = [
            Prompt("the example's", PIN_PROMPT, pinned=True),
            Prompt("a short one", _SHORT_OTHER, pinned=False),
            Prompt("the long one", _long_text("Handbook"), pinned=True),
            Prompt("a long one", _long_text("Novel"), pinned=False),
        ]

    def tell(self) -> None:
        """Run all of it.

        Raises:
            Problem: A server failed, or the pin did not hold.
        """
        self._pin_the_example()
        self._ask_and_pin_the_others()
        self._flood()
        for prompt in self.prompts:
            prompt.readings.append(self._ask(prompt.text))
        self._console.print(self._table())
        self._judge()
        self._survive_a_restart()

    def _pin_the_example(self) -> None:
        self._console.rule("Pin a prompt's KV cache")
        model = self._settings.model_name
        self.prompts[0].readings.append(self._ask(PIN_PROMPT))
        self._console.print(
            "The prompt was just asked once, to time its first token; asked again it is cached:"
        )
        self._show(
            f"{self._settings.vllm_url}/v1/completions",
            {"model": model, "prompt": PIN_PROMPT, "max_tokens": 8, "temperature": 0},
        )
        tokens = self._show(
            f"{self._settings.vllm_url}/tokenize", {"model": model, "prompt": PIN_PROMPT}
        )["tokens"]
        self._pin(tokens, LOCATION)
        self._console.print("\nOn the disk below host memory, too, which outlives vLLM:")
        self._pin(tokens, DISK)

    def _pin(self, tokens: list[int], location: str) -> None:
        answer = self._show(f"{self._settings.controller_url}/pin", _pin_body(tokens, location))
        if answer.get("num_tokens") != len(tokens):
            raise Problem(
                f"the pin holds {answer.get('num_tokens')} of {len(tokens)} tokens in {location}; "
                f"the engine's log is {self._settings.folder / 'vllm.log'}"
            )

    def _ask_and_pin_the_others(self) -> None:
        for prompt in self.prompts[1:]:
            prompt.readings.append(self._ask(prompt.text))
            if not prompt.pinned:
                continue
            body = {"model": self._settings.model_name, "prompt": prompt.text}
            tokens = post(f"{self._settings.vllm_url}/tokenize", body)["tokens"]
            answer = post(f"{self._settings.controller_url}/pin", _pin_body(tokens))
            self._console.print(
                f"\nA prompt of {len(tokens)} tokens was pinned the same way: {json.dumps(answer)}",
                highlight=False,
            )

    def _flood(self) -> None:
        self._console.rule("Flood the cache")
        total = FLOOD_FACTOR * CACHE_TOKENS
        self._console.print(
            f"Host memory and disk were made small for this ({self._settings.cache_gib * 1024:.0f} "
            f"MiB each, about {CACHE_TOKENS} tokens). {FLOOD_FACTOR} times as many tokens of other "
            "prompts go through them now."
        )
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task("tokens of other prompts", total=total)
            flooded = 0
            while flooded < total:
                text = _long_text(f"Flood {flooded}")
                flooded += ask(
                    self._settings.vllm_url, self._settings.model_name, text, max_tokens=1
                ).prompt_tokens
                progress.update(task, completed=min(flooded, total))

    def _table(self) -> Table:
        table = Table(
            title="Cached after the flood, and time to the first token before and after it"
        )
        table.add_column("prompt", no_wrap=True)
        table.add_column("pinned", no_wrap=True)
        for heading in ("tokens", "cached", "from", "before", "after"):
            table.add_column(heading, justify="right", no_wrap=True)
        for prompt in self.prompts:
            before, after = prompt.readings[0], prompt.readings[-1]
            sources = ", ".join(f"{name}: {tokens}" for name, tokens in after.sources.items())
            table.add_row(
                prompt.name,
                "yes" if prompt.pinned else "no",
                str(after.prompt_tokens),
                str(after.cached_tokens),
                sources or "-",
                f"{before.seconds * 1000:.0f} ms",
                f"{after.seconds * 1000:.0f} ms",
            )
        return table

    def _judge(self) -> None:
        for prompt in self.prompts:
            before, after = prompt.readings[0], prompt.readings[-1]
            if not _as_expected(prompt.pinned, after):
                raise Problem(
                    f"{prompt.name}, {'pinned' if prompt.pinned else 'not pinned'}, came back with "
                    f"{after.cached_tokens} of {after.prompt_tokens} tokens cached; the engine's "
                    f"log is {self._settings.folder / 'vllm.log'}"
                )
            if after.text != before.text:
                raise Problem(
                    f"the answer to {prompt.name} changed from {before.text!r} to {after.text!r}"
                )
        self._console.print(
            "The pinned prompts came back from host memory, all but the last token, which vLLM "
            "computes itself. The others had to be computed anew, but for a first token that they "
            "may share with a pinned one. vLLM's own prefix cache was off; its source would have "
            'read "device". Every answer was the same as before.'
        )

    def _survive_a_restart(self) -> None:
        self._console.rule("Restart vLLM")
        self._console.print("vLLM is stopped and started again; its host memory is empty now.")
        self._restart()
        example = self.prompts[0]
        after = self._ask(example.text)
        if not _as_expected(pinned=True, after=after) or after.text != example.readings[0].text:
            raise Problem(
                f"after the restart {after.cached_tokens} of {after.prompt_tokens} tokens were "
                f"cached and the answer was {after.text!r}; the engine's log is "
                f"{self._settings.folder / 'vllm.log'}"
            )
        self._console.print(
            f"Its first request, the pinned prompt: {after.cached_tokens} of {after.prompt_tokens} "
            f"tokens from {', '.join(after.sources)}, the same answer, "
            f"{after.seconds * 1000:.0f} ms to the first token.",
            highlight=False,
        )

    def _ask(self, text: str) -> Reading:
        return ask(self._settings.vllm_url, self._settings.model_name, text)

    def _show(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        # Printed as it is: a line that was wrapped or marked up cannot be pasted.
        self._console.print(f"\n$ {curl_line(url, body)}", markup=False, soft_wrap=True)
        answer = post(url, body)
        self._console.print(json.dumps(answer), markup=False, soft_wrap=True)
        return answer


def _as_expected(pinned: bool, after: Reading) -> bool:
    if pinned:
        # vLLM computes the last token of a prompt itself, to have a logit.
        return after.cached_tokens == after.prompt_tokens - 1
    return after.cached_tokens <= _SHARED_TOKENS


def _pin_body(tokens: list[int], location: str = LOCATION) -> dict[str, Any]:
    return {"tokens": tokens, "instance_id": INSTANCE, "location": location}


def _long_text(seed: str) -> str:
    words = random.Random(seed)
    return f"{seed}: " + " ".join(words.choices(_WORDS, k=LONG_PROMPT_WORDS))
