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
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmcache_core.api.deadline import Deadline
from lmcache_core.api.messages import ClearCommand, MoveCommand
from lmcache_core.api.pins import OnMissing, Renew
from lmcache_core.controller.failures import EngineRefusedError
from lmcache_core.controller.keeper import Amendment
from lmcache_core.controller.pin_row import PinContent, PinRow, Place
from lmcache_core.keys import EMPTY_SCOPE, tokens_to_bytes
from tests.pins.model import Model, Pin
from tests.pins.world import DISK, FRAME_BYTES, INSTANCE, MEMORY, World

QUOTA_BYTES = 4 * FRAME_BYTES
LENGTHS = (5, 16, 17, 31, 32, 47)
MEMORY_FOLDER = Path("/dev/shm")

locations = st.sampled_from([MEMORY, DISK])
pin_ids = st.sampled_from("abcd")
ttls = st.none() | st.integers(1, 90).map(float)
# No sum of these is a whole number, so that nothing ends just as it is looked at.
seconds = st.integers(0, 50).map(lambda n: n * 1.37 + 0.0137)


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, ...]:
    """Prompts of which many begin alike."""
    family, length = draw(st.integers(0, 3)), draw(st.sampled_from(LENGTHS))
    branch = draw(st.sampled_from([None, None, 4, 16]))
    tokens = [family * 1000 + n for n in range(length)]
    if branch is not None:
        tokens[branch:] = [9000 + family * 100 + n for n in range(branch, length)]
    return tuple(tokens)


def soon() -> Deadline:
    return Deadline(20)


class PinMachine(RuleBasedStateMachine):
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
        self.floods = 0

    # -- what is asked for -----------------------------------------------

    @property
    def engine(self):
        return self.world.engine.rig.engine

    def both(self) -> bool:
        return self.world.engine is not None and self.world.controller is not None

    @precondition(lambda self: self.world.engine)
    @rule(tokens=prompts(), steps=st.sampled_from([5, 16, 100]))
    def serve(self, tokens: tuple[int, ...], steps: int) -> None:
        hit = self.world.engine.rig.serve(tokens, steps=steps)
        assert hit <= self.model.longest_known(tokens)
        self.model.note_served(tokens, self.world.clocks.passed)

    @precondition(lambda self: self.world.engine)
    @rule(chunks=st.integers(1, 8))
    def flood(self, chunks: int) -> None:
        for _ in range(chunks):
            self.floods += 1
            self.serve(tuple(100_000 + self.floods * 16 + n for n in range(16)), 100)

    @precondition(both)
    @rule(
        pin_id=pin_ids,
        tokens=prompts(),
        location=locations,
        ttl=ttls,
        renew=st.sampled_from([Renew.FIXED, Renew.FIXED, Renew.ON_HIT]),
        on_missing=st.sampled_from(OnMissing),
        owner=st.sampled_from("op"),
    )
    def pin(
        self,
        pin_id: str,
        tokens: tuple[int, ...],
        location: str,
        ttl: float | None,
        renew: Renew,
        on_missing: OnMissing,
        owner: str,
    ) -> None:
        content = PinContent(
            owner=owner,
            places=(Place(INSTANCE, location),),
            tokens=tokens_to_bytes(tokens),
            ttl_seconds=ttl,
            renew=renew,
            on_missing=on_missing,
        )
        keeper = self.world.controller.keeper
        old = self.model.living.get(pin_id)
        version = old and old.version
        try:
            kept = self.world.run(keeper.put(pin_id, content, soon(), if_match=version))
        except EngineRefusedError:
            # What was there before is there again, under a version of its own.
            if old is not None:
                row = self.world.controller.ledger.get(pin_id)
                assert row.content.tokens == tokens_to_bytes(old.tokens)
                old.version = self.model.raised(row.version)
            return
        assert kept.num_tokens <= self.model.longest_known(tokens)
        self.model.living[pin_id] = self.as_made(kept.row, tokens)
        self.model.living[pin_id].floor = kept.num_tokens

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

    @precondition(both)
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
            return
        self.model.living[pin_id] = self.as_made(kept.row, pin.tokens)
        self.model.living[pin_id].floor = pin.floor

    @precondition(lambda self: self.world.controller)
    @rule(pin_id=pin_ids)
    def unpin(self, pin_id: str) -> None:
        pin = self.model.living.pop(pin_id, None)
        if pin is None:
            return
        released = self.world.run(self.world.controller.keeper.release(pin_id, soon()))
        self.model.raised(released.row.version)
        assert bool(released.failures) == (self.world.engine is None)

    @precondition(both)
    @rule(tokens=prompts())
    def look_up(self, tokens: tuple[int, ...]) -> None:
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

    @precondition(both)
    @rule(tokens=prompts(), down=st.booleans(), keep=st.booleans())
    def move(self, tokens: tuple[int, ...], down: bool, keep: bool) -> None:
        source, target = (MEMORY, DISK) if down else (DISK, MEMORY)
        asked = {"location": source, "target": target, "tokens": tokens_to_bytes(tokens)}
        reply = self.ask(MoveCommand, keep=keep, **asked)
        assert reply.error in (None, "conflict")
        assert reply.num_tokens <= self.model.longest_known(tokens)

    @precondition(both)
    @rule(location=locations, tokens=st.just(()) | prompts(), force=st.booleans())
    def clear(self, location: str, tokens: tuple[int, ...], force: bool) -> None:
        asked = {"location": location, "tokens": tokens_to_bytes(tokens)}
        reply = self.ask(ClearCommand, force=force, **asked)
        assert reply.error is None
        if force:
            self.model.lost(location)

    def ask(self, kind, **fields):
        commands, directory = self.world.controller.commands, self.world.controller.directory
        return self.world.run(commands.ask(directory.get(INSTANCE), soon(), kind, **fields))

    # -- what happens ----------------------------------------------------

    @rule(passing=seconds)
    def pass_time(self, passing: float) -> None:
        self.world.clocks.passed += passing

    @rule(passing=seconds)
    def suspend_the_engines_machine(self, passing: float) -> None:
        self.world.clocks.passed += passing
        self.world.clocks.suspended += passing
        self.model.slept(passing)

    @precondition(lambda self: self.world.controller)
    @rule(by=st.integers(-100_000, 100_000).filter(lambda by: abs(by) > 2))
    def set_the_clock(self, by: int) -> None:
        self.world.clocks.set_by += by

    @precondition(lambda self: self.world.engine)
    @rule(goodbye=st.booleans())
    def end_engine(self, goodbye: bool) -> None:
        self.world.stop_engine(goodbye=goodbye)
        self.model.lost(MEMORY)
        if self.world.controller is None:
            # It will serve before it is told again what is pinned.
            self.model.lost(DISK)

    @precondition(lambda self: not self.world.engine)
    @rule()
    def start_engine(self) -> None:
        self.world.start_engine()
        # What the ledger asks it for begins anew.
        self.model.may_be_renewed(self.world.clocks.passed)

    @precondition(lambda self: self.world.controller)
    @rule(orderly=st.booleans())
    def end_controller(self, orderly: bool) -> None:
        self.world.stop_controller(orderly=orderly)
        if self.world.engine is None:
            self.model.lost(DISK)

    @precondition(lambda self: not self.world.controller)
    @rule()
    def start_controller(self) -> None:
        self.world.start_controller()
        self.model.may_be_renewed(self.world.clocks.passed)
        self.model.heard_from = self.world.clocks.passed

    @precondition(lambda self: self.world.controller)
    @rule(orderly=st.booleans(), passing=seconds)
    def restart_controller(self, orderly: bool, passing: float) -> None:
        self.end_controller(orderly)
        self.pass_time(passing)
        self.world.settle()  # The engine ends what it is time for.
        self.start_controller()

    @precondition(both)
    @rule(orderly=st.booleans(), passing=seconds)
    def restart_both(self, orderly: bool, passing: float) -> None:
        self.world.stop_engine(goodbye=orderly)
        self.world.stop_controller(orderly=orderly)
        self.model.lost(MEMORY)
        self.world.clocks.passed += passing
        self.start_controller()
        self.world.start_engine()

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
        if self.both():
            self.engine_holds_what_the_ledger_says()

    def ledger_says_what_the_model_says(self) -> None:
        ledger, passed = self.world.controller.ledger, self.world.clocks.passed
        living = {row.pin_id: row for row in ledger.rows() if row.ended is None}
        self.model.expire(passed, living)
        assert living.keys() == self.model.living.keys()
        for pin_id, row in living.items():
            pin = self.model.living[pin_id]
            assert row.version == pin.version
            assert row.content.tokens == tokens_to_bytes(pin.tokens)
            if pin.ttl is None:
                assert row.expires_at is None
                continue
            left = row.expires_at - ledger.now()
            assert left >= pin.left(passed) - 0.01
            # A controller that has begun since knows of no hit before, and waits for news.
            most = max(pin.most_left(passed), self.model.heard_from - passed if pin.renews else 0)
            assert left <= most + 0.01

    def engine_holds_what_the_ledger_says(self) -> None:
        ledger, pins = self.world.controller.ledger, self.engine.tiers.pins
        held = set(pins.ids())
        assert held <= self.model.living.keys()
        for pin_id in self.model.living:
            place = ledger.get(pin_id).places[INSTANCE]
            report = pins.report(pin_id)
            if report is None:
                assert (place.tokens_pinned, place.told) == (0, 0)
                continue
            assert place.tokens_pinned == report.tokens_pinned
            assert place.pinned_bytes == report.pinned_bytes
            assert place.reserved_bytes == report.reserved_bytes

    def pins_hold_what_they_say(self) -> None:
        tiers = self.engine.tiers
        for pin_id in tiers.pins.ids():
            pin = tiers.pins._pins[pin_id]
            report = tiers.pins.report(pin_id)
            location = pin.request.location
            there = tiers.covered(pin.request.tokens, EMPTY_SCOPE)[location]
            assert report.tokens_pinned <= there
            residents = tiers.tier(location).residents
            for cover in pin.covers.values():
                assert pin_id in residents.marks(cover.key)
                assert location == MEMORY or self.files([cover.key.hex()])
            known = self.model.living.get(pin_id)
            if known is not None and known.version == pin.request.version:
                assert report.tokens_pinned >= known.floor
                known.floor = report.tokens_pinned
        for location in tiers.locations:
            residents = tiers.tier(location).residents
            marking = set().union(*(residents.marks(key) for key in residents))
            assert marking <= set(tiers.pins.ids())
        if self.both():
            for pin_id, known in self.model.living.items():
                assert not known.floor or pin_id in tiers.pins.ids()

    def bounds_hold(self) -> None:
        tiers = self.engine.tiers
        for location in tiers.locations:
            residents = tiers.tier(location).residents
            assert residents.used_bytes <= residents.capacity_bytes
            marked = sum(residents.size(key) for key in residents if residents.marked(key))
            assert residents.pinned_bytes == marked
            assert residents.reserved_bytes >= 0
            taken = residents.pinned_bytes + residents.reserved_bytes
            assert taken <= residents.capacity_bytes * 4 // 5
        charged = dict.fromkeys(tiers.pins._charged, 0)
        for pin in tiers.pins._pins.values():
            charged[pin.request.owner] = charged.get(pin.request.owner, 0) + pin.charge
        assert {owner: total for owner, total in charged.items() if total} == tiers.pins._charged
        assert all(total <= QUOTA_BYTES for total in charged.values())

    def disk_has_what_is_accounted_for(self) -> None:
        tier = self.engine.tiers.tier(DISK)
        sizes = {key.hex(): tier.residents.size(key) for key in tier.residents}
        assert sizes == self.files(sizes)
        assert tier.residents.used_bytes == sum(sizes.values())
        assert tier.counters["damaged_frames"] == tier.counters["read_failures"] == 0

    def files(self, names: Iterable[str]) -> dict[str, int]:
        """The sizes of some frames' files, of those that are there."""
        frames = self.world.disk / INSTANCE / "frames"
        files = [frames / name[:2] / name for name in names]
        return {file.name: file.stat().st_size for file in files if file.exists()}

    def no_other_file_is_there(self) -> None:
        frames = (self.world.disk / INSTANCE / "frames").glob("*/*")
        tier = self.engine.tiers.tier(DISK)
        assert {frame.name for frame in frames} == {key.hex() for key in tier.residents}

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
