"""Everything that may happen to pins, in any order, over a real disk and a real ledger.

Prompts are served, pinned, amended, released, flooded out, moved and cleared;
time passes, clocks are set and machines suspended; the engine and the controller
are away and come back, alone or together. The model knows what was served, which
pins were acknowledged, and what each held when it was last looked at.

``TEST_EXAMPLES=1000 pytest tests/pins/test_machine.py`` is a longer run.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import ClearCommand, MoveCommand
from lmcache_core.api.pins import OnMissing, Renew
from lmcache_core.config import ANYWHERE
from lmcache_core.controller.failures import EngineRefusedError
from lmcache_core.controller.pin_change import Amendment
from lmcache_core.controller.pin_row import PinContent, PinRow, Place
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from tests.pins.checks import QUOTA_BYTES, Checks
from tests.pins.model import Model, Pin
from tests.pins.world import DISK, INSTANCE, MEMORY, World

LENGTHS = (5, 16, 17, 31, 32, 47)
MEMORY_FOLDER = Path("/dev/shm")

tiers = st.sampled_from([MEMORY, DISK])
locations = st.sampled_from([MEMORY, DISK, ANYWHERE])
pin_ids = st.sampled_from("abcd")
rarely = st.integers(0, 4).map(lambda n: n == 4)
ttls = st.none() | st.integers(1, 90).map(float)
# No sum of these is a whole number, so that nothing ends just as it is looked at.
seconds = st.integers(0, 30).map(lambda n: n * 1.37 + 0.0137)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    """Prompts of which many begin alike."""
    family, length = draw(st.integers(0, 3)), draw(st.sampled_from(LENGTHS))
    branch = draw(st.sampled_from([None, None, 4, 16]))
    tokens = [family * 1000 + n for n in range(length)]
    if branch is not None:
        tokens[branch:] = [9000 + family * 100 + n for n in range(branch, length)]
    return tuple(tokens)


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """How something is to be pinned."""
    return {
        "owner": draw(st.sampled_from("op")),
        "location": draw(locations),
        "ttl": draw(ttls),
        "renew": draw(st.sampled_from([Renew.FIXED, Renew.FIXED, Renew.ON_HIT])),
        "on_missing": draw(st.sampled_from(OnMissing)),
    }


def soon() -> Deadline:
    return Deadline(20)


class PinMachine(Checks, RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        # It ends processes and no power, so that memory does for a disk, and is quick.
        memory = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
        self.folder = tempfile.TemporaryDirectory(dir=memory)
        self.world = World(Path(self.folder.name), QUOTA_BYTES)
        self.world.start_controller()
        self.world.start_engine()
        self.world.settle()
        self.model = Model()
        self.prompts: list[tuple[int, ...]] = []
        self.floods = 0

    @initialize(wanted=st.lists(st.tuples(prompts(), wishes()), min_size=1, max_size=3))
    def begin(self, wanted: list[tuple[tuple[int, ...], dict[str, Any]]]) -> None:
        """Not much can happen to nothing."""
        for pin_id, (tokens, wish) in zip("abc", wanted, strict=False):
            self.pin(pin_id, 0, tokens, wish, serves=True, crashes=False)

    # -- what is asked for -----------------------------------------------

    def connected(self) -> bool:
        return self.world.connected

    def meant(self, which: int, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Mostly a prompt that was served, else some other."""
        known = self.prompts[-8:]
        return known[which % len(known)] if known and which else tokens

    @precondition(lambda self: self.world.engine)
    @rule(tokens=prompts(), steps=st.sampled_from([5, 16, 100]))
    def serve(self, tokens: tuple[int, ...], steps: int) -> None:
        self.prompts.append(tokens)
        self.store(tokens, steps)

    def store(self, tokens: tuple[int, ...], steps: int) -> None:
        hit = self.world.engine.rig.serve(tokens, steps=steps)
        assert hit <= self.model.longest_known(tokens)
        self.model.note_served(tokens, self.world.clocks.passed)

    @precondition(lambda self: self.world.engine)
    @rule(chunks=st.integers(1, 8))
    def flood(self, chunks: int) -> None:
        for _ in range(chunks):
            self.floods += 1
            self.store(tuple(100_000 + self.floods * 16 + n for n in range(16)), 100)

    @precondition(connected)
    @rule(
        pin_id=pin_ids,
        which=st.integers(0, 8),
        tokens=prompts(),
        wish=wishes(),
        serves=st.booleans(),
        crashes=rarely,
    )
    def pin(
        self,
        pin_id: str,
        which: int,
        tokens: tuple[int, ...],
        wish: dict[str, Any],
        serves: bool,
        crashes: bool,
    ) -> None:
        tokens = self.meant(which, tokens)
        if serves:
            self.serve(tokens, 100)
            self.world.settle()
        content = PinContent(
            owner=wish["owner"],
            places=(Place(INSTANCE, wish["location"]),),
            tokens=tokens_to_bytes(tokens),
            ttl_seconds=wish["ttl"],
            renew=wish["renew"],
            on_missing=wish["on_missing"],
        )
        keeper = self.world.controller.keeper
        old = self.model.living.get(pin_id)
        version = old and old.version
        try:
            kept = self.world.run(keeper.put(pin_id, content, soon(), if_match=version))
        except EngineRefusedError:
            # What was there before is there again, under a version of its own.
            self.model.may_be_renewed(self.world.clocks.passed)
            if old is not None:
                row = self.world.controller.ledger.get(pin_id)
                assert row.content.tokens == tokens_to_bytes(old.tokens)
                old.version = self.model.raised(row.version)
            return
        assert kept.num_tokens <= self.model.longest_known(tokens)
        self.model.living[pin_id] = self.as_made(kept.row, tokens)
        self.model.living[pin_id].floor = kept.num_tokens
        if crashes:
            self.crash_controller()

    def as_made(self, row: PinRow, tokens: tuple[int, ...]) -> Pin:
        content = row.content
        return Pin(
            version=self.model.raised(row.version),
            tokens=tokens,
            location=content.places[0].location,
            ttl=content.ttl_seconds,
            since=self.world.clocks.passed,
            renews=content.renew is Renew.ON_HIT,
        )

    @precondition(connected)
    @rule(pin_id=pin_ids, ttl=ttls)
    def amend(self, pin_id: str, ttl: float | None) -> None:
        pin = self.model.living.get(pin_id)
        if pin is None:
            return
        row = self.world.controller.ledger.get(pin_id)
        amendment = Amendment(ttl, row.content.renew, {"n": str(row.version)})
        try:
            kept = self.world.run(self.world.controller.keeper.amend(pin_id, amendment, soon()))
        except EngineRefusedError:
            pin.version = self.model.raised(self.world.controller.ledger.get(pin_id).version)
            self.model.may_be_renewed(self.world.clocks.passed)
            return
        self.model.living[pin_id] = self.as_made(kept.row, pin.tokens)
        # An engine has let go of one whose time was up, whatever a hit that nobody has told of is
        # waited for.
        ended = pin.left(self.world.clocks.passed) <= 0
        self.model.living[pin_id].floor = kept.num_tokens if ended else pin.floor

    @precondition(lambda self: self.world.controller)
    @rule(pin_id=pin_ids, crashes=rarely)
    def unpin(self, pin_id: str, crashes: bool) -> None:
        pin = self.model.living.pop(pin_id, None)
        if pin is None:
            return
        released = self.world.run(self.world.controller.keeper.release(pin_id, soon()))
        self.model.raised(released.row.version)
        assert bool(released.failures) == (not self.world.connected)
        if crashes:
            self.crash_controller()

    @precondition(connected)
    @rule(which=st.integers(0, 8), tokens=prompts())
    def look_up(self, which: int, tokens: tuple[int, ...]) -> None:
        tokens = self.meant(which, tokens)
        asked = tokens_to_bytes(tokens)
        lookup = self.world.controller.lookup
        found = self.world.run(lookup.find(asked, EMPTY_SCOPE, settle_seconds=20))
        tiers = self.engine.tiers
        there = tiers.covered(asked, EMPTY_SCOPE)
        most = max(tiers.together(asked, EMPTY_SCOPE), *there.values())
        assert found == ({INSTANCE: (found[INSTANCE][0], most)} if most else {})
        assert most <= self.model.longest_known(tokens)
        if most:
            assert there[found[INSTANCE][0]] == max(there.values())

    @precondition(connected)
    @rule(which=st.integers(0, 8), tokens=prompts(), down=st.booleans(), keep=st.booleans())
    def move(self, which: int, tokens: tuple[int, ...], down: bool, keep: bool) -> None:
        tokens = self.meant(which, tokens)
        source, target = (MEMORY, DISK) if down else (DISK, MEMORY)
        asked = {"location": source, "target": target, "tokens": tokens_to_bytes(tokens)}
        reply = self.ask(MoveCommand, keep=keep, **asked)
        assert reply.error in (None, "conflict")
        assert reply.num_tokens <= self.model.longest_known(tokens)

    @precondition(connected)
    @rule(location=tiers, tokens=st.just(()) | prompts(), force=st.booleans())
    def clear(self, location: str, tokens: tuple[int, ...], force: bool) -> None:
        asked = {"location": location, "tokens": tokens_to_bytes(tokens)}
        elsewhere = self.held_elsewhere(location)
        reply = self.ask(ClearCommand, force=force, **asked)
        assert reply.error is None
        if force:
            self.model.lost(location, elsewhere)

    def ask(self, kind, **fields):
        commands, directory = self.world.controller.commands, self.world.controller.directory
        return self.world.run(commands.ask(directory.get(INSTANCE), soon(), kind, **fields))

    # -- what happens ----------------------------------------------------

    @rule(passing=seconds, asleep=rarely)
    def pass_time(self, passing: float, asleep: bool) -> None:
        """Time passes, which a machine that is suspended does not count."""
        self.world.clocks.passed += passing
        if asleep:
            self.world.clocks.suspended += passing
            self.model.slept(passing)

    @precondition(lambda self: self.world.controller)
    @rule(by=st.integers(-100_000, 100_000).filter(lambda by: abs(by) > 2))
    def set_the_clock(self, by: int) -> None:
        self.world.clocks.set_by += by

    @precondition(connected)
    @rule(who=st.sampled_from(["engine", "controller", "both", "neither"]), orderly=st.booleans())
    def part(self, who: str, orderly: bool) -> None:
        """One side leaves, or both, or they no more hear of each other."""
        if who == "neither":
            self.world.cut()
        if who in ("engine", "both"):
            self.stop_engine(goodbye=orderly)
        if who in ("controller", "both"):
            self.world.stop_controller(orderly=orderly)

    @precondition(lambda self: not self.connected())
    @rule(engine_first=st.booleans())
    def come_back(self, engine_first: bool) -> None:
        """The side that is away comes back, or one of both."""
        world = self.world
        if world.engine is None and (engine_first or world.controller is not None):
            world.start_engine()
        elif world.controller is None:
            self.start_controller()
        else:
            world.mend()
        # What the ledger asks an engine for begins anew.
        self.model.may_be_renewed(world.clocks.passed)

    def stop_engine(self, *, goodbye: bool) -> None:
        elsewhere = self.held_elsewhere(MEMORY) if self.disk_has_room_for_any() else {}
        self.world.stop_engine(goodbye=goodbye)
        self.model.lost(MEMORY, elsewhere)

    def start_controller(self) -> None:
        self.world.start_controller()
        self.model.heard_from = self.world.clocks.passed

    def crash_controller(self) -> None:
        """End it right after an answer, before anything else is done."""
        self.world.stop_controller(orderly=False)
        self.start_controller()
        self.model.may_be_renewed(self.world.clocks.passed)

    @precondition(connected)
    @rule(orderly=st.booleans(), passing=seconds)
    def restart_both(self, orderly: bool, passing: float) -> None:
        self.stop_engine(goodbye=orderly)
        self.world.stop_controller(orderly=orderly)
        self.world.clocks.passed += passing
        self.start_controller()
        self.world.start_engine()
        self.model.may_be_renewed(self.world.clocks.passed)

    # -- what must hold --------------------------------------------------

    @invariant()
    def all_agree(self) -> None:
        self.world.settle()
        if self.world.controller is not None:
            self.ledger_says_what_the_model_says()
        if self.world.engine is not None:
            self.disk_has_what_is_accounted_for()
            self.bounds_hold()
            self.pins_hold_what_they_say()
        if self.connected():
            self.engine_holds_what_the_ledger_says()

    def teardown(self) -> None:
        self.world.settle()
        if self.world.engine is not None:
            self.no_other_file_is_there()
        self.world.close()
        self.folder.cleanup()


TestPinMachine = PinMachine.TestCase
TestPinMachine.settings = settings(
    max_examples=int(os.environ.get("TEST_EXAMPLES", "40")),
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
