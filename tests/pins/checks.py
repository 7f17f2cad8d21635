"""What has to hold between an engine, its disk, a ledger and the model, once all is settled."""

from __future__ import annotations

from collections.abc import Iterable

from lmcache_core.engine.cache.engine import CacheEngine
from lmcache_core.engine.frames.record import is_records_of
from lmcache_core.keys import tokens_to_bytes
from tests.engine.marks import marking, marks_are_pins, most_pinned
from tests.pins.model import Model
from tests.pins.world import DISK, FRAME_BYTES, INSTANCE, MEMORY, World

QUOTA_BYTES = 4 * FRAME_BYTES


class Checks:
    """Compares the parts of a world with each other and with a model."""

    world: World
    model: Model

    @property
    def engine(self) -> CacheEngine:
        return self.world.engine.rig.engine

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
            row = ledger.get(pin_id)
            place = row.places[INSTANCE]
            report = pins.report(pin_id)
            if row.expires_at is not None and row.expires_at <= ledger.now():
                # An engine that slept counts on, but only a hit would renew it.
                assert place.tokens_pinned == 0
                continue
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
            assert pin.due is None or pin.due > self.world.clocks.engine()
            report = tiers.pins.report(pin_id)
            assert report.tokens_pinned <= most_pinned(tiers, pin)
            for number, cover in pin.covers.items():
                (tier,) = marking(tiers, pin, number)
                assert tier.name == MEMORY or self.files([cover.key.hex()])
            known = self.model.living.get(pin_id)
            if known is not None and known.version == pin.request.version:
                assert report.tokens_pinned >= known.floor
                known.floor = report.tokens_pinned
        marks_are_pins(tiers)
        if self.world.connected:
            for pin_id, known in self.model.living.items():
                ended = known.left(self.world.clocks.passed) <= 0  # Unless a hit is reported.
                assert ended or not known.floor or pin_id in tiers.pins.ids()

    def held_elsewhere(self, location: str) -> dict[str, int]:
        """By pin that is in no one tier, the tokens from the first on that other tiers hold."""
        held: dict[str, int] = {}
        tiers = self.engine.tiers
        for pin in tiers.pins._anywhere.pins.values():
            tokens = 0
            for number in range(len(pin.pieces)):
                if number not in pin.covers:
                    break
                if any(tier.name == location for tier in marking(tiers, pin, number)):
                    break
                tokens += pin.covers[number].tokens
            held[pin.request.pin_id] = tokens
        return held

    def disk_has_room_for_any(self) -> bool:
        """Whether pins could hold all that the disk has of what pins in no one tier are for."""
        residents = self.engine.tiers.tier(DISK).residents
        pins = self.engine.tiers.pins._anywhere.pins.values()
        wanted = {key for pin in pins for key in pin.pieces.keys if key in residents}
        return residents.may_pin(sum(map(residents.unmarked_size, wanted)))

    def bounds_hold(self) -> None:
        tiers = self.engine.tiers
        for location in tiers.locations:
            residents = tiers.tier(location).residents
            assert residents.used_bytes + residents.record_bytes <= residents.capacity_bytes
            marked = sum(residents.size(key) for key in residents if residents.marked(key))
            assert residents.pinned_bytes == marked
            assert residents.reserved_bytes >= 0
            taken = residents.pinned_bytes + residents.reserved_bytes
            assert taken <= residents.capacity_bytes * 4 // 5
        known = tiers.pins._quotas.charged
        charged = dict.fromkeys(known, 0)
        for pin in tiers.pins._pins.values():
            charged[pin.request.owner] = charged.get(pin.request.owner, 0) + pin.charge
        assert {owner: total for owner, total in charged.items() if total} == known
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
        sizes = {frame.name: frame.stat().st_size for frame in frames}
        residents = self.engine.tiers.tier(DISK).residents
        records = sizes.keys() - {key.hex() for key in residents}
        assert all(is_records_of(bytes.fromhex(name), INSTANCE) for name in records)
        assert sum(sizes[name] for name in records) == residents.record_bytes
        assert sum(sizes.values()) == residents.used_bytes + residents.record_bytes
