"""What the cache costs a step of real vLLM, beside a connector that does nothing.

    python benchmarks/step_time.py [--rounds 20] [--fill 100000] [--json]
                                   [--control anywhere|beside|apart]

Two vLLM engines, children of this process, serve the same kind of rounds, some
steps of one and some of the other in turn, because what else a machine does
changes from second to second: one with a null connector, one with ours, with
stores running and an index of ``--fill`` chunks. Before each round a real
controller is killed and started anew, so that our engine registers and sends
all of its index, and ``--pins`` pins a second, of cached prompts of 2,048
tokens, come over HTTP.
The engines have one half of the cores, client and controller the other. The
threads of ours that serve the controller run where the kernel puts them, as a
server's do; ``--control beside`` keeps them with the steps, as on a machine that
has no core to spare, and ``apart`` with client and controller. The controller
goes on beside both engines: while the null connector is timed ours, idle,
answers on the other cores.
Read the ratio of the p99 step times, of all steps, or as the median of the
rounds' own, which does not hang on a few rounds that the machine has disturbed;
each with the interval that drawing the rounds anew gives. What the control
thread and that of its link take is read from the kernel's clocks; it is all
they do in a round, snapshot and heartbeats and all, divided by its pins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from step_child import PINNED_PROMPTS, PINNED_TOKENS

HERE = Path(__file__).resolve().parent
REQUESTS = 8
TURN_STEPS = 60
"""Steps after which it is the other engine's turn."""

DRAWS = 300
CORES = sorted(os.sched_getaffinity(0))
ENGINE_CORES = CORES[: max(1, len(CORES) // 2)]
OTHER_CORES = CORES[len(CORES) // 2 :]
CONTROL_CORES = {"anywhere": CORES, "beside": ENGINE_CORES, "apart": OTHER_CORES}
"""Where the threads that serve the controller may run."""


class Child:
    """One engine process.

    Args:
        settings: What ``step_child.py`` is told.
        environ: Variables it has beside those of this process.
    """

    def __init__(self, settings: dict[str, Any], environ: dict[str, str]) -> None:
        path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen(
            [sys.executable, str(HERE / "step_child.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environ},
        )
        os.sched_setaffinity(self._child.pid, ENGINE_CORES)
        self._control_threads = self._await_ready()

    def go_on(self) -> tuple[list[float], dict[str, float], bool]:
        """Serve some of a round.

        Returns:
            Seconds of each step, what control threads took of them, and
            whether the round has ended.
        """
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        steps, taken, ended = json.loads(self._line())
        return steps, taken, ended

    def move_control(self, cores: list[int]) -> None:
        """Let the threads that serve the controller run on these cores only."""
        for thread in self._control_threads:
            os.sched_setaffinity(thread, cores)

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    def _await_ready(self) -> list[int]:
        """Wait until it serves; the ids of its control threads."""
        while not (line := self._line()).startswith("ready"):
            pass
        return [int(word) for word in line.split()[1:]]

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            sys.exit("an engine ended; run benchmarks/step_child.py by hand to see why")
        return line.strip()


class Disturbance:
    """A controller, pins at a steady rate, and snapshots without end."""

    def __init__(self, pins_per_second: float, stack: ExitStack, folder: Path) -> None:
        self._log = folder / "controller.log"
        self._ports = ("0", "0")
        self._start()
        stack.callback(self._kill)
        self._period = 1 / pins_per_second
        self._running = threading.Event()
        self._over = threading.Event()
        self.pins = self.refused = 0
        self.wrong = ""
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._pin)
        self._thread.start()
        stack.callback(self.stop)

    def resume(self) -> None:
        """Replace the controller by one that knows nothing, and let pins flow."""
        self._kill()
        self._start()
        self._resumed = time.perf_counter()
        self._running.set()

    def pause(self) -> None:
        """Let no pins flow."""
        self._running.clear()
        self.seconds += time.perf_counter() - self._resumed

    def _pin(self) -> None:
        number = 0
        while not self._over.is_set():
            if not self._running.wait(0.1):
                continue
            number += 1
            first = number % PINNED_PROMPTS
            body = {
                "instance_id": "lmcache_default_instance",
                "location": "LocalCPUBackend",
                "tokens": list(range(first, first + PINNED_TOKENS)),
                "ttl_s": 5,
            }
            request = urllib.request.Request(
                f"{self.url}/pin",
                json.dumps(body).encode(),
                {"content-type": "application/json"},
            )
            begin = time.perf_counter()
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    pinned = json.load(answer)["num_tokens"]
                if pinned != PINNED_TOKENS:
                    self.wrong = f"{pinned} of {PINNED_TOKENS} tokens were pinned"
                    return
                self.pins += 1
            except (OSError, HTTPException):  # until the engine has registered again
                self.refused += 1
            time.sleep(max(0.0, self._period - (time.perf_counter() - begin)))

    def _start(self) -> None:
        port, monitor_port = self._ports
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("lmcache_controller")),
                    *("--port", port, "--monitor-port", monitor_port, "--ledger", "none"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url, self.monitor = self._addresses()
        self._ports = (self.url.rpartition(":")[2], self.monitor.rpartition(":")[2])

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _addresses(self) -> tuple[str, str]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            text = self._log.read_text()
            started = re.search(r"port=(\d+) monitor='([^']+)'", text)
            if started:
                return f"http://127.0.0.1:{started[1]}", started[2]
            time.sleep(0.05)
        sys.exit(f"the controller did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """End the pins, before the engine that they are for; idempotent."""
        self._over.set()
        self._running.set()
        self._thread.join()


class Round(NamedTuple):
    """One round of both engines.

    Attributes:
        null: Seconds of each step with the null connector.
        ours: Seconds of each step with ours.
        pins: How many were made during the latter.
        taken: Seconds of the processor that each control thread took then.
    """

    null: list[float]
    ours: list[float]
    pins: int
    taken: dict[str, float]


def serve_round(
    null: Child, ours: Child, disturbance: Disturbance, control_cores: list[int]
) -> Round:
    """Serve one round with both engines, some steps of each in turn."""
    steps: dict[Child, list[float]] = {null: [], ours: []}
    taken: Counter[str] = Counter()
    pins = 0
    going_on = [null, ours]
    while going_on:
        for child in tuple(going_on):
            ours.move_control(control_cores if child is ours else OTHER_CORES)
            before = disturbance.pins
            some, took, ended = child.go_on()
            steps[child] += some
            taken.update(took)
            if child is ours:
                pins += disturbance.pins - before
            if ended:
                going_on.remove(child)
    return Round(steps[null], steps[ours], pins, dict(taken))


def ratio(rounds: Sequence[Round], q: float) -> float:
    """Of the q-quantiles of all steps of some rounds."""
    null, ours = ([step for one in rounds for step in one[side]] for side in (0, 1))
    return quantile(ours, q) / quantile(null, q)


def by_round(rounds: Sequence[Round], q: float) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(ratio([one], q) for one in rounds)


def interval(
    figure: Callable[[Sequence[Round], float], float], rounds: Sequence[Round], q: float
) -> tuple[float, float]:
    """Where a figure lies for 95 of 100 draws of as many rounds from these."""
    rng = random.Random(0)
    drawn = [figure(rng.choices(rounds, k=len(rounds)), q) for _ in range(DRAWS)]
    return quantile(drawn, 0.025), quantile(drawn, 0.975)


def compare(rounds: Sequence[Round]) -> dict[str, float]:
    """The figures of some rounds."""
    figures: dict[str, float] = {}
    for q, name in ((0.5, "p50"), (0.99, "p99")):
        for figure, label in ((ratio, f"{name}_ratio"), (by_round, f"{name}_ratio_by_round")):
            figures[label] = figure(rounds, q)
            figures[f"{label}_low"], figures[f"{label}_high"] = interval(figure, rounds, q)
        figures[f"null_{name}_ms"] = quantile([s for one in rounds for s in one.null], q) * 1e3
    figures["steps"] = sum(len(one.ours) for one in rounds)
    wall = sum(sum(one.ours) for one in rounds)
    for name in rounds[0].taken:
        taken = sum(one.taken[name] for one in rounds)
        figures[f"{name}_thread_share"] = taken / wall
        figures[f"{name}_thread_us_per_pin"] = taken / sum(one.pins for one in rounds) * 1e6
    return figures


def quantile(values: list[float], q: float) -> float:
    """The q-quantile of some values."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fill", type=int, default=100_000)
    parser.add_argument("--pins", type=float, default=100)
    parser.add_argument("--control", choices=CONTROL_CORES, default="anywhere")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, OTHER_CORES)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lmcache-bench-")))
        model = folder / "model"
        maker = HERE.parent / "examples" / "tiny_model" / "make_tiny_llama.py"
        subprocess.run([sys.executable, maker, model, "--dtype", "float32"], check=True)
        disturbance = Disturbance(args.pins, stack, folder)
        common = {
            "model": str(model),
            "requests": REQUESTS,
            "max_tokens": 400,
            "turn_steps": TURN_STEPS,
        }
        null = Child(
            {
                **common,
                "fill": 0,
                "transfer": {
                    "kv_connector": "NullConnector",
                    "kv_role": "kv_both",
                    "kv_connector_module_path": "null_connector",
                },
            },
            {},
        )
        stack.callback(null.close)
        ours = Child(
            {
                **common,
                "fill": args.fill,
                "transfer": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
            },
            {
                "LMCACHE_ENABLE_CONTROLLER": "true",
                "LMCACHE_CONTROLLER_URL": disturbance.monitor,
                "LMCACHE_MAX_LOCAL_CPU_SIZE": "8",
                "LMCACHE_LMCACHE_WORKER_HEARTBEAT_TIME": "0.2",
            },
        )
        stack.callback(ours.close)
        stack.callback(disturbance.stop)
        control_cores = CONTROL_CORES[args.control]
        rounds: list[Round] = []
        for number in range(args.rounds + 1):
            disturbance.resume()
            one = serve_round(null, ours, disturbance, control_cores)
            disturbance.pause()
            if number:  # the first compiles and warms up
                rounds.append(one)
        if disturbance.wrong:
            sys.exit(disturbance.wrong)
        figures = {
            **compare(rounds),
            "pins_per_second": disturbance.pins / disturbance.seconds,
            "pins_refused_per_second": disturbance.refused / disturbance.seconds,
        }
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:28} {value:.3f}")


if __name__ == "__main__":
    main()
