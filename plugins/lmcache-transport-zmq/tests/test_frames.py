from __future__ import annotations

import contextlib
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcache_core.api.messages import (
    PROTOCOL_VERSION,
    Events,
    Held,
    Message,
    PinCommand,
    Register,
    TierStatus,
    to_wire,
)
from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState
from lmcache_core.errors import MessageError
from lmcache_core.keys import Namespace, Scope
from lmcache_transport_zmq import frames

VERSION = bytes([PROTOCOL_VERSION])
EVENTS = Events(
    instance_id="e",
    incarnation=2**63,
    sequence=7,
    location="LocalCPUBackend",
    admitted=bytes(range(64)),
    evicted=b"\xff" * 32,
    last=True,
)
PIN = PinRequest(
    pin_id="p",
    version=3,
    location="LocalCPUBackend",
    tokens=b"\x01\x00\x00\x00",
    scope=Scope.of(cache_salt="s", adapter="a"),
    ttl_seconds=1.5,
    on_missing=OnMissing.RESERVE,
    labels={"é": "ü"},
)
REGISTER = Register(
    instance_id="e",
    incarnation=1,
    namespace=Namespace(model="m", weights="00", page_bytes=(1, 2), extra={"k": "v"}),
    tiers=(TierStatus(location="LocalCPUBackend", kind="memory", capacity_bytes=1),),
)
HELD = Held(
    instance_id="e",
    incarnation=1,
    pins=(
        PinReport(pin_id="p", version=3, state=PinState.PARTIAL, tokens_asked=2, tokens_pinned=1),
    ),
    pin_requests=(PIN,),
)
COMMAND = PinCommand(request_id="r", deadline_seconds=1.0, pin=PIN)


@pytest.mark.parametrize("message", [EVENTS, REGISTER, HELD])
def test_what_an_engine_sends_comes_back_equal(message: Events | Register | Held) -> None:
    assert frames.decode(frames.encode(message), frames.ENGINE_MESSAGES) == message


def test_what_the_controller_sends_comes_back_equal() -> None:
    assert frames.decode(frames.encode(COMMAND), frames.CONTROLLER_MESSAGES) == COMMAND


@pytest.mark.parametrize("message", [EVENTS, REGISTER, HELD, COMMAND])
def test_a_frame_is_the_messagepack_map_of_the_plain_message(message: Message) -> None:
    packed = VERSION + msgpack.packb(to_wire(message))
    assert frames.encode(message) == packed
    reader = frames.CONTROLLER_MESSAGES if message is COMMAND else frames.ENGINE_MESSAGES
    assert frames.decode(packed, reader) == message


def test_a_short_header_asks_for_no_memory() -> None:
    # Whatever it announces, a frame of a few bytes has as many items at most.
    body = msgpack.packb({"t": "register", "MARK": 0})
    at = body.index(b"MARK") - 1
    tracemalloc.start()
    try:
        for field in ("tiers", "pins", "pin_requests", "later", "namespace", "instance_id"):
            for header in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):
                frame = VERSION + body[:at] + msgpack.packb(field) + header + b"\x7f\xff\xff\xff"
                with pytest.raises(MessageError):
                    frames.decode(frame, frames.ENGINE_MESSAGES)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_bytes_travel_as_bytes_and_are_not_blown_up() -> None:
    assert len(frames.encode(EVENTS)) < len(EVENTS.admitted) + len(EVENTS.evicted) + 120


def test_a_field_of_a_later_minor_version_is_passed_over() -> None:
    body = msgpack.packb({**to_wire(EVENTS), "later": {"a": [1]}})
    assert frames.decode(bytes([PROTOCOL_VERSION]) + body, frames.ENGINE_MESSAGES) == EVENTS


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        VERSION,
        bytes([PROTOCOL_VERSION + 1]) + frames.encode(EVENTS)[1:],
        frames.encode(EVENTS)[1:],
        frames.encode(EVENTS)[:-1],
        frames.encode(EVENTS) + b"\x00",
        VERSION + b'{"t":"events"}',
        VERSION + msgpack.packb([1, 2]),
        VERSION + msgpack.packb({"t": "no such"}),
        VERSION + msgpack.packb({"t": 1}),
        VERSION + msgpack.packb({"t": "events"}),
        VERSION + msgpack.packb({**to_wire(EVENTS), "sequence": "7"}),
        VERSION + msgpack.packb({**to_wire(EVENTS), "admitted": "text"}),
        VERSION + msgpack.packb({1: 2}),
        VERSION + msgpack.packb({b"t": b"events"}),
        VERSION + b"\x81\xa1t\xa2\xff\xfe",
        VERSION + nested(900),
        VERSION + nested(5000),
        VERSION + nested(200_000),
        VERSION + b"\xdd\xff\xff\xff\xff",
        VERSION + b"\xdf\xff\xff\xff\xff",
        VERSION + b"\xc7\x01\x05\x00",
        VERSION + b"\xd6\xff\x00\x00\x00\x00",
        frames.encode(COMMAND),
        VERSION + b"\xc0" * (frames.MAX_FRAME_BYTES + 1),
    ],
    ids=lambda frame: frame[:12].hex() + f"+{len(frame)}",
)
def test_what_is_no_message_is_a_message_error(frame: bytes) -> None:
    with pytest.raises(MessageError):
        frames.decode(frame, frames.ENGINE_MESSAGES)


def test_a_message_that_the_other_end_would_not_take_is_not_made() -> None:
    long = Events(
        instance_id="e",
        incarnation=1,
        sequence=1,
        location="l",
        admitted=bytes(frames.MAX_FRAME_BYTES),
    )
    with pytest.raises(MessageError, match="above the limit"):
        frames.encode(long)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(frame: bytes) -> None:
    for prefix in (b"", VERSION):
        with contextlib.suppress(MessageError):
            frames.decode(prefix + frame, frames.ENGINE_MESSAGES)


@settings(deadline=None)
@given(data=st.data())
def test_a_mutated_frame_is_a_message_or_a_message_error(data: st.DataObject) -> None:
    frame = bytearray(frames.encode(data.draw(st.sampled_from([EVENTS, REGISTER, HELD]))))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(frame)))
        how = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if how == "set" and at < len(frame):
            frame[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del frame[at : at + data.draw(st.integers(1, 20))]
        else:
            frame[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    try:
        message = frames.decode(bytes(frame), frames.ENGINE_MESSAGES)
    except MessageError:
        return
    # Compared as bytes, because a float may have become a NaN.
    again = frames.decode(frames.encode(message), frames.ENGINE_MESSAGES)
    assert frames.encode(again) == frames.encode(message)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=20,
    )
)
def test_any_plain_value_is_a_message_or_a_message_error(plain: object) -> None:
    for value in (plain, {"t": "register", "namespace": plain, "tiers": plain}):
        with pytest.raises(MessageError):
            frames.decode(VERSION + msgpack.packb(value), frames.ENGINE_MESSAGES)
