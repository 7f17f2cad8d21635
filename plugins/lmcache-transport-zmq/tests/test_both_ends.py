from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zmq

from lmcache_core.api.messages import Events, Identify, WantSnapshot
from lmcache_core.errors import ConfigError
from lmcache_core.plugins import PluginRegistry
from lmcache_transport_zmq import frames
from lmcache_transport_zmq.link import ZmqLink
from lmcache_transport_zmq.listener import ZmqListener
from lmcache_transport_zmq.sockets import QUEUE_MESSAGES
from lmcache_transport_zmq.transport import ZmqTransport

pytestmark = pytest.mark.anyio

Dial = Callable[[str], ZmqLink]
Listen = Callable[[str], Awaitable[ZmqListener]]


def test_the_registry_finds_it_by_its_scheme() -> None:
    spec = PluginRegistry.discover().transport("tcp://localhost:9001")
    assert spec.name == "zmq"
    assert isinstance(spec.load()(spec.config()), ZmqTransport)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://localhost:0", "tcp://[::1]:0"])
async def test_messages_go_both_ways(listen: Listen, dial: Dial, address: str, ends: Any) -> None:
    listener = await listen(address)
    assert not listener.address.endswith(":0")
    link = dial(listener.address)
    assert link.send(ends.hello(7))
    peer, message = await ends.heard(listener)
    assert message == ends.hello(7)
    assert await listener.send(peer, WantSnapshot())
    assert await ends.answered(link) == WantSnapshot()
    assert link.stats() == (1, 1, 0, 0)
    assert listener.stats() == (1, 1, 0, 0)
    await listener.close()
    await listener.close()


async def test_a_name_is_dialled_by_both_families_until_something_is_heard(
    listen: Listen, dial: Dial, free_address: str, ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcache_transport_zmq.link.FAMILY_SECONDS", 0.05)
    dialled: list[int] = []
    connect = ZmqLink._connect

    def note(link: ZmqLink) -> None:
        connect(link)
        dialled.append(link._socket.getsockopt(zmq.IPV6))

    monkeypatch.setattr(ZmqLink, "_connect", note)
    link = dial(free_address.replace("127.0.0.1", "localhost"))
    while len(dialled) < 4:
        await asyncio.to_thread(link.receive, 0.05)
    assert dialled[:4] == [0, 1, 0, 1]
    listener = await listen(free_address)
    monkeypatch.setattr("lmcache_transport_zmq.link.FAMILY_SECONDS", 1.0)

    async def answer() -> None:
        # Each hello may come from a connection that is given up meanwhile, as
        # an engine's registrations may; every one of them is answered.
        while True:
            peer, _ = await listener.receive()
            await listener.send(peer, Identify())

    answering = asyncio.create_task(answer())
    try:
        async with asyncio.timeout(60):
            message = None
            while message is None:
                link.send(ends.hello())
                message = await asyncio.to_thread(link.receive, 0.05)
    finally:
        answering.cancel()
    assert message == Identify()
    monkeypatch.setattr("lmcache_transport_zmq.link.FAMILY_SECONDS", 0.0)
    count = len(dialled)
    await asyncio.to_thread(link.receive, 0.1)
    assert len(dialled) == count, "a link that has heard something goes on dialling"


async def test_a_taken_port_is_one_sentence(listen: Listen) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    with pytest.raises(ConfigError, match="is taken by another program") as error:
        await listen(listener.address)
    assert "\n" not in str(error.value)
    await listener.close()
    again = await listen(listener.address)
    await again.close()


@pytest.mark.parametrize(
    "address", ["tcp://192.0.2.1:0", "tcp://no-such-host.invalid:9001", "tcp://[2001:db8::1]:0"]
)
async def test_an_address_of_another_machine_is_refused(listen: Listen, address: str) -> None:
    with pytest.raises(ConfigError) as error:
        await listen(address)
    assert "\n" not in str(error.value)


def test_port_zero_cannot_be_dialled(transport: ZmqTransport) -> None:
    with pytest.raises(ConfigError, match="port 0"):
        transport.dial("tcp://127.0.0.1:0")


async def test_the_engine_may_come_first(
    listen: Listen, dial: Dial, free_address: str, ends: Any
) -> None:
    link = dial(free_address)
    assert link.send(ends.hello())
    assert await asyncio.to_thread(link.receive, 0.3) is None
    listener = await listen(free_address)
    assert (await ends.heard(listener))[1] == ends.hello()
    await listener.close()


async def test_the_controller_may_restart(
    listen: Listen, dial: Dial, free_address: str, ends: Any
) -> None:
    link = dial(free_address)
    for number in range(3):
        listener = await listen(free_address)
        assert link.send(ends.hello(number))
        peer, message = await ends.heard(listener)
        assert message == ends.hello(number)
        assert await listener.send(peer, Identify())
        assert await ends.answered(link) == Identify()
        await listener.close()


async def test_an_engine_that_is_gone_cannot_be_sent_to(
    listen: Listen, dial: Dial, ends: Any
) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    link = dial(listener.address)
    link.send(ends.hello())
    peer, _ = await ends.heard(listener)
    link.close()
    link.close()
    await ends.until(lambda: listener.send(peer, Identify()), False)
    assert listener.stats().dropped == 1
    await listener.close()


async def test_a_goodbye_goes_out_before_the_link_closes(
    listen: Listen, dial: Dial, ends: Any
) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    for number in range(20):
        link = dial(listener.address)
        link.send(ends.hello(number))
        link.close()
        assert (await ends.heard(listener))[1] == ends.hello(number)
    await listener.close()


async def test_garbage_costs_that_frame_and_nobody_else(
    listen: Listen, dial: Dial, ends: Any
) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    good, bad = dial(listener.address), dial(listener.address)
    garbage = [
        [b""],
        [b"\x01"],
        [b"\x02\x80"],
        [b"\x01" + b"\x91" * 2000],
        [b"a", b"b"],
        [b"", b""],
    ]
    for number, parts in enumerate(garbage):
        bad._socket.send_multipart(parts)
        good.send(ends.hello(number))
        assert (await ends.heard(listener))[1] == ends.hello(number)
    bad.send(ends.hello(99))
    peer, message = await ends.heard(listener)
    assert message == ends.hello(99)
    assert listener.stats().malformed == len(garbage)

    for parts in garbage:
        await listener._socket.send_multipart([peer, *parts])
    await listener.send(peer, Identify())
    assert await ends.answered(bad) == Identify()
    assert bad.stats().malformed == len(garbage)
    await listener.close()


async def test_a_peer_that_speaks_no_zeromq_harms_nobody(
    listen: Listen, dial: Dial, ends: Any
) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    port = int(listener.address.rpartition(":")[2])
    for text in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 100,
        b"\xff\0\0\0\0\0\0\0\1\x7f" + b"\0" * 54,
    ):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.sendall(text)
    link = dial(listener.address)
    link.send(ends.hello())
    assert (await ends.heard(listener))[1] == ends.hello()
    await listener.close()


def test_a_queue_without_reader_is_bounded_and_send_never_waits(
    dial: Dial, free_address: str, ends: Any
) -> None:
    link = dial(free_address)
    began = time.monotonic()
    sent = sum(link.send(ends.hello(number)) for number in range(5 * QUEUE_MESSAGES))
    assert time.monotonic() - began < 5
    assert sent == QUEUE_MESSAGES
    assert link.stats() == (sent, 0, 0, 5 * QUEUE_MESSAGES - sent)


def test_a_message_too_long_is_refused_and_counted(dial: Dial, free_address: str) -> None:
    link = dial(free_address)
    long = Events(
        instance_id="e", incarnation=1, sequence=1, location="l", admitted=bytes(64 << 20)
    )
    assert not link.send(long)
    assert link.stats().dropped == 1


def test_wake_ends_a_wait_from_another_thread(dial: Dial, free_address: str) -> None:
    link = dial(free_address)
    timer = threading.Timer(0.1, link.wake)
    timer.start()
    began = time.monotonic()
    assert link.receive(30.0) is None
    assert time.monotonic() - began < 5
    timer.join()
    link.wake()
    link.wake()
    assert link.receive(30.0) is None
    began = time.monotonic()
    assert link.receive(0.1) is None
    assert time.monotonic() - began >= 0.1


def test_wake_after_close_touches_no_descriptor_of_others(dial: Dial, free_address: str) -> None:
    link = dial(free_address)
    link.close()
    reader, writer = os.pipe()
    try:
        link.wake()
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
    finally:
        os.close(reader)
        os.close(writer)


def test_links_leave_no_descriptor_and_no_thread(
    transport: ZmqTransport, free_address: str, ends: Any
) -> None:
    def count() -> tuple[int, ...]:
        names = ("/proc/self/fd", "/proc/self/task")
        return tuple(sum(1 for _ in pathlib.Path(name).iterdir()) for name in names)

    transport.dial(free_address).close()
    before = count()
    for _ in range(10):
        link = transport.dial(free_address)
        link.send(ends.hello())
        link.close()
    # The kernel lists a thread for a moment after it was joined, here and in before.
    deadline = time.monotonic() + 10
    while any(now > then for now, then in zip(count(), before, strict=True)):
        assert time.monotonic() < deadline, (count(), before)


CHILD = textwrap.dedent(
    """
    import sys
    from lmcache_core.api.messages import Goodbye
    from lmcache_transport_zmq.transport import ZmqTransport

    link = ZmqTransport().dial(sys.argv[1])
    link.send(Goodbye(instance_id="child", incarnation=1))
    number = 1
    while True:
        if link.receive(10.0) is not None:
            number += 1
            link.send(Goodbye(instance_id="child", incarnation=number))
    """
)


def start_child(address: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, address])


async def test_a_frozen_engine_bounds_its_queue_and_is_heard_again(
    listen: Listen, ends: Any
) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    child = start_child(listener.address)
    try:
        peer, _ = await ends.heard(listener)
        child.send_signal(signal.SIGSTOP)
        kept = 0
        big = Identify()
        async with asyncio.timeout(30):
            while await listener.send(peer, big):
                kept += 1
                if kept > 500_000:
                    pytest.fail("the queue of a frozen peer has no bound")
        child.send_signal(signal.SIGCONT)
        assert (await ends.heard(listener))[1].instance_id == "child"
    finally:
        child.kill()
        child.wait()
    await listener.close()


async def test_a_killed_engine_is_noticed_at_once(listen: Listen, ends: Any) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    child = start_child(listener.address)
    peer, _ = await ends.heard(listener)
    child.kill()
    child.wait()
    await ends.until(lambda: listener.send(peer, Identify()), False)
    await listener.close()


async def test_an_engine_that_dials_anew_takes_its_own_place(listen: Listen, ends: Any) -> None:
    listener = await listen("tcp://127.0.0.1:0")
    context = zmq.Context()
    with contextlib.ExitStack() as stale:
        stale.callback(context.term)
        for number in range(2):
            # The first connection stays open, as one does whose host has vanished.
            end = stale.enter_context(context.socket(zmq.DEALER))
            end.setsockopt(zmq.LINGER, 0)
            end.setsockopt(zmq.ROUTING_ID, b"same")
            end.connect(listener.address)
            end.send(frames.encode(ends.hello(number)))
            peer, message = await ends.heard(listener)
            assert (peer, message) == (b"same", ends.hello(number))
        await listener.send(b"same", Identify())
        assert await asyncio.to_thread(end.poll, 5000)
