"""Kill engines that pin on a disk and controllers with a ledger, and compare with an oracle.

    python -m tests.pins.kill_run [--kills 2000] [--seconds N] [--seed N] [--only ROUND]
        [--folder PATH] [--json]

A round begins with an empty folder. One child is an engine, which serves
prompts through little memory and a disk with little room, so that it evicts
all the time; another is a controller, whose clients pin, renew and release over
its routes and tell their parent what they were answered. One of them or both
are killed, at a random moment, or by themselves before, within or after a
system call from one of the places that a rehearsal has found, or a commit of
the ledger; engines are killed while they start, too. What is dead starts again.
Then what was acknowledged has to be there and what was released has not; a chunk
that was pinned on the disk is a file that verifies; what is accounted for is
what the files take.

A seed replays the order of kills; who is how far then is the kernel's.
"""

from __future__ import annotations

import json
import random
import select
import shutil
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

from tests.disk.calls_between import RecordingCalls
from tests.disk.kill_rounds import main
from tests.engine.test_storage_tier import settle
from tests.net.ports import free_port
from tests.pins.child import Child, KillPlan
from tests.pins.controller_child import LEDGER_POINTS, live_controller, warm
from tests.pins.engine_child import live_engine, make_engine, serve_some
from tests.pins.oracle import PASSING, Facts, Oracle

LIVES_A_ROUND = 8
WORK_SECONDS = 0.25
LOOK_SECONDS = 5.0
"""How long a child may take to come to the place where it is to die."""

LONGEST_SECONDS = 30.0
ENGINE, CONTROLLER = "engine", "controller"
NOT_PLANNED = KillPlan()


class Pair:
    """An engine and a controller over one folder, and what was heard of them.

    Args:
        folder: Where frames and the ledger are kept.
        oracle: Told what is said.
    """

    def __init__(self, folder: Path, oracle: Oracle) -> None:
        self.disk = folder / "disk"
        self._ledger = folder / "pins.sqlite"
        self._port = free_port()
        self._oracle = oracle
        self._children: dict[str, Child] = {}
        self._seen: dict[str, Facts] = {}
        self._up: set[str] = set()

    def start(self, who: str, plan: KillPlan = NOT_PLANNED) -> bool:
        """Start a child and wait until it is up; False where it has died before."""
        if who == ENGINE:
            address = f"tcp://127.0.0.1:{self._port}"
            live = partial(live_engine, self.disk, address, plan)
        else:
            live = partial(live_controller, self._ledger, self._port, plan)
        self._up.discard(who)
        self._children[who] = Child(live)
        self.listen(lambda: who in self._up or self.dead(who))
        return not self.dead(who)

    def order(self, who: str, line: str) -> None:
        self._children[who].order(line)

    def look(self, who: str) -> Facts:
        """What a child has, once it is settled."""
        self._seen.pop(who, None)
        self.order(who, "look")
        self.listen(lambda: who in self._seen or self.dead(who))
        if who not in self._seen:
            status = self._children.pop(who).reap()
            raise RuntimeError(f"the {who} died of signal {status} where nobody had killed it")
        return self._seen[who]

    def dead(self, who: str) -> bool:
        return self._children[who].ended

    def kill(self, who: str) -> bool:
        """End a child, and hear all it has said; whether it was killed, by whomever."""
        child = self._children[who]
        if not child.ended:
            child.kill()
            self.listen(lambda: child.ended)
        del self._children[who]
        return child.reap() != 0

    def listen(self, until, seconds: float = LONGEST_SECONDS) -> bool:
        """Take what children say until something is so; False where the time is up."""
        deadline = time.monotonic() + seconds
        while not until():
            left = deadline - time.monotonic()
            open_ones = {c.told: (who, c) for who, c in self._children.items() if not c.ended}
            ready = select.select(list(open_ones), [], [], max(0, left))[0]
            if not ready and left <= 0:
                if seconds == LONGEST_SECONDS:
                    raise TimeoutError(f"{list(open_ones.values())} did nothing for {seconds} s")
                return False
            for pipe in ready:
                who, child = open_ones[pipe]
                for line in child.read():
                    self._take(who, line)
        return True

    def _take(self, who: str, line: str) -> None:
        if line == "up":
            self._up.add(who)
        elif line.startswith("seen "):
            self._seen[who] = json.loads(line[5:])
        else:
            self._oracle.heard(line)

    def close(self) -> None:
        for who in list(self._children):
            self.kill(who)


def rehearse(place: Path | None) -> tuple[list[str], list[str]]:
    """The places to kill an engine at: while it starts, and while it works."""
    rng, floods = random.Random(1), iter(range(10**6))
    with tempfile.TemporaryDirectory(dir=place) as name:
        calls = RecordingCalls()
        with make_engine(Path(name), calls, None) as rig:
            calls.points.clear()
            for _ in range(60):
                serve_some(rig, rng, floods)
            settle(rig)
            working = sorted(calls.points)
        calls = RecordingCalls()
        rig = make_engine(Path(name), calls, None)
        starting = sorted(calls.points)
        rig.__exit__()
    return starting, working


class Run:
    """Rounds of kills, counted.

    Args:
        seed: Decides who is killed where.
        place: Where folders are made.
    """

    def __init__(self, seed: int, place: Path | None) -> None:
        self.seed = seed
        self._place = place
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.starting, self.working = rehearse(place)
        warm()
        commits = [(when, step) for when in ("before", "after") for step in LEDGER_POINTS]
        self.commits = [f"{when} the commit of a {step}" for when, step in commits]
        self._turn = self._starts = self._works = 0

    def round(self, number: int) -> None:
        """Some lives over one folder."""
        rng = random.Random(f"{self.seed}-{number}")
        folder = Path(tempfile.mkdtemp(prefix="lmcache-pins-", dir=self._place))
        oracle = Oracle()
        pair = Pair(folder, oracle)
        self._turn = self._starts = self._works = number * LIVES_A_ROUND
        try:
            for who in (CONTROLLER, ENGINE):
                pair.start(who)
            for _ in range(LIVES_A_ROUND):
                if found := self._life(pair, oracle, rng):
                    self.faults += [f"round {number}, {fault}" for fault in found]
                    return
                self._turn += 1
        finally:
            pair.close()
            self.counts["acknowledged"] += oracle.acknowledged
            shutil.rmtree(folder, ignore_errors=True)

    def _life(self, pair: Pair, oracle: Oracle, rng: random.Random) -> list[str]:
        """Work, kill, start again, look."""
        who = (ENGINE, CONTROLLER, ENGINE, "both")[self._turn % 4]
        plan, place = self._plan(who, rng)
        victims = (ENGINE, CONTROLLER) if who == "both" else (who,)
        for child in (CONTROLLER, ENGINE):
            pair.order(child, f"go {rng.randrange(1 << 30)}")
        if plan.point is not None:
            pair.order(victims[0], f"kill {json.dumps(plan)}")
            pair.listen(lambda: pair.dead(victims[0]), WORK_SECONDS)
        else:
            pair.listen(lambda: False, rng.random() * WORK_SECONDS / 2)
        died = pair.dead(victims[0])
        for child in victims:
            self.counts["kills"] += pair.kill(child)
        self.counts[place if died else "at a random moment"] += 1
        self.counts[f"of {who}"] += 1
        at = time.time()
        label = f"{who} {plan if died else 'at random'}: "
        wrong = []
        if ENGINE in victims:
            wrong = oracle.faults_of_files(pair.disk, at)
            oracle.engine_begins(time.time())
        if ENGINE in victims and rng.random() < 0.5:
            # It serves before it is told what is pinned, and has to know by itself.
            self._start(pair, ENGINE, rng)
            pair.order(ENGINE, f"go {rng.randrange(1 << 30)}")
            pair.listen(lambda: False, rng.random() * WORK_SECONDS / 2)
            victims = tuple(child for child in victims if child != ENGINE)
        for child in reversed(victims):
            self._start(pair, child, rng)
        return [label + fault for fault in wrong or self._look(pair, oracle)]

    def _plan(self, who: str, rng: random.Random) -> tuple[KillPlan, str]:
        turn = self._turn
        if turn % 3 == 2:
            return NOT_PLANNED, "at a random moment"
        if who == CONTROLLER:
            when, step = divmod(turn // 4 % len(self.commits), len(LEDGER_POINTS))
            plan = KillPlan(LEDGER_POINTS[step], ("before", "after")[when], rng.randrange(1, 4))
            return plan, f"at {self.commits[turn // 4 % len(self.commits)]}"
        self._works += 1
        point = self.working[self._works % len(self.working)]
        plan = KillPlan(point, rng.choice(("before", "within", "after")), rng.randrange(1, 12))
        return plan, f"at {point}"

    def _start(self, pair: Pair, who: str, rng: random.Random) -> None:
        """Start what is dead; an engine may be killed once more meanwhile."""
        if who == ENGINE and rng.random() < 0.5:
            self._starts += 1
            point = self.starting[self._starts % len(self.starting)]
            if not pair.start(who, KillPlan(point, rng.choice(("before", "after")), 1)):
                self.counts[f"while it starts, at {point}"] += 1
            self.counts["kills"] += pair.kill(who)
        pair.start(who)

    def _look(self, pair: Pair, oracle: Oracle) -> list[str]:
        until = time.monotonic() + LOOK_SECONDS
        while True:
            ledger = pair.look(CONTROLLER)
            wrong = oracle.faults_of_ledger(ledger)
            engine = pair.look(ENGINE)
            wrong += oracle.faults_of_engine(pair.disk, ledger, engine, time.time())
            # A release that the ledger owes may reach the engine between its answer and
            # our look at its files, and a hit may renew a pin; a fault stays.
            if not wrong or set(wrong) - PASSING or time.monotonic() > until:
                oracle.believe(ledger)
                return wrong
            time.sleep(0.05)

    @property
    def places(self) -> dict[str, int]:
        """How often each place was killed at."""
        names = [f"at {point}" for point in (*self.working, *self.commits)]
        names += [f"while it starts, at {point}" for point in self.starting]
        return {name: self.counts[name] for name in names}


if __name__ == "__main__":
    also = {"of_engine": "of engine", "of_controller": "of controller", "of_both": "of both"}
    sys.exit(main(__doc__.splitlines()[0], Run, also=also))
