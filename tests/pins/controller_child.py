"""The controller that is killed, and the clients that ask it for pins."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx

from lmcache_core.config import ANYWHERE
from lmcache_core.config.controller import ControllerConfig
from lmcache_core.controller.app import create_app
from lmcache_core.controller.ledger_file import Change, LedgerFile
from lmcache_core.controller.plane import ControlPlane
from tests.controller.dying_controller import what
from tests.pins.child import KillPlan, Lines, Say
from tests.pins.prompts import PROMPTS, prompt
from tests.pins.world import DISK, INSTANCE, MEMORY, installed

CLIENTS = 4
PINS_A_CLIENT = 3
SETTLE_SECONDS = 15.0
LOCATIONS = (DISK, DISK, MEMORY, ANYWHERE)
LEDGER_POINTS = ("pending", "report", "release")


class ArmedLedger:
    """Lets commits of the ledger kill the process once that is ordered."""

    def __init__(self) -> None:
        self.plan = KillPlan()
        self._left = 0
        write = LedgerFile.write

        def dying(file: LedgerFile, changes: Sequence[Change]) -> None:
            due = self._is_due(changes)
            if due and self.plan.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            write(file, changes)
            if due:
                os.kill(os.getpid(), signal.SIGKILL)

        LedgerFile.write = dying  # type: ignore[method-assign]

    def arm(self, plan: KillPlan) -> None:
        self.plan, self._left = plan, plan.nth

    def _is_due(self, changes: Sequence[Change]) -> bool:
        if self.plan.point is None or self.plan.point != what(changes):
            return False
        self._left -= 1
        return self._left == 0


def live_controller(ledger: Path, port: int, plan: KillPlan, orders: int, say: Say) -> None:
    """Ask for pins, over the routes, when told to."""
    armed = ArmedLedger()
    armed.arm(plan)
    asyncio.run(_control(ledger, port, armed, orders, say))


def warm() -> None:
    """Load what every child would load for itself."""
    create_app(cast("ControlPlane", SimpleNamespace(config=ControllerConfig())))
    installed().transport("tcp://127.0.0.1:1").load()


async def _control(ledger: Path, port: int, armed: ArmedLedger, orders: int, say: Say) -> None:
    config = ControllerConfig(monitor_host="127.0.0.1", monitor_port=port, ledger=str(ledger))
    plane = await ControlPlane.open(config, installed())
    transport = httpx.ASGITransport(app=create_app(plane))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=30
    ) as client:
        say("up")
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop, pipe = asyncio.get_running_loop(), Lines(orders)
        loop.add_reader(orders, lambda: [lines.put_nowait(line) for line in pipe.come(0)])
        clients: list[asyncio.Task[None]] = []
        over = asyncio.Event()
        while True:
            order, _, rest = (await lines.get()).partition(" ")
            if order == "go":
                over.clear()
                clients = [
                    asyncio.create_task(ask_for_pins(client, number, rest, over, say))
                    for number in range(CLIENTS)
                ]
            elif order == "kill":
                armed.arm(KillPlan(*json.loads(rest)))
            else:
                over.set()
                await asyncio.gather(*clients)
                await settled(plane)
                say("seen " + json.dumps(await listed(client)))


async def ask_for_pins(
    client: httpx.AsyncClient,
    number: int,
    seed: str,
    over: asyncio.Event,
    say: Say,
) -> None:
    """Pin, renew and release pins of one's own, and tell what was answered."""
    rng = random.Random(f"{seed}-{number}")
    mine = [f"c{number}-{n}" for n in range(PINS_A_CLIENT)]
    while not over.is_set():
        pin_id = rng.choice(mine)
        path = f"/v1/pins/{pin_id}"
        if rng.random() < 0.7:
            which = rng.randrange(PROMPTS)
            body = {
                "placements": [{"instance_id": INSTANCE, "location": rng.choice(LOCATIONS)}],
                "tokens": prompt(which),
                "ttl_s": rng.choice((None, None, 0.1, 0.5, 30)),
                "on_missing": rng.choice(("partial", "reserve")),
                "labels": {"prompt": str(which)},
            }
            say(f"begun {pin_id}")
            answer = await client.put(path, json=body, headers={"If-Match": "*"})
            if answer.status_code == 412:  # It does not exist.
                answer = await client.put(path, json=body)
        else:
            say(f"begun {pin_id}")
            answer = await client.delete(path)
        shown = _facts(answer.json()) if answer.status_code in (200, 201) else None
        say(f"done {pin_id} {answer.request.method} {answer.status_code} {json.dumps(shown)}")
        await asyncio.sleep(rng.choice((0, 0, 0.005)))


def _facts(pin: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": pin["version"],
        "location": pin["placements"][0]["location"],
        "prompt": int(pin["labels"]["prompt"]),
        "tokens": pin["num_tokens"],
        "ends": pin["expires_at"],
        "state": pin["state"],
        "said": time.time(),
    }


async def listed(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/v1/pins", params={"limit": 1000})
    pins = {pin["pin_id"]: _facts(pin) for pin in answer.json()["pins"]}
    return {"pins": pins, "at": time.time()}


async def settled(plane: ControlPlane) -> None:
    """Wait until the engine has been told all that it is owed.

    Raises:
        TimeoutError: That does not come.
    """
    ledger, deadline = plane.ledger, time.monotonic() + SETTLE_SECONDS
    while True:
        live = [engine for engine in plane.directory.live() if engine.instance_id == INSTANCE]
        owed = ledger.owed(INSTANCE, time.monotonic()) or list(ledger.tombstones.owed(INSTANCE))
        if live and not owed:
            return
        if time.monotonic() > deadline:
            state = f"live {bool(live)}, owed {owed}"
            raise TimeoutError(f"the engine and the ledger do not agree: {state}")
        await asyncio.sleep(0.005)
