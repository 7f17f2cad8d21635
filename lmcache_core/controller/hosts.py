"""Whether an engine's host is the one that somebody means."""

from __future__ import annotations

import asyncio
import socket

from lmcache_core.controller.engine_record import EngineRecord

RESOLVE_SECONDS = 2.0
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


async def engine_on(engines: list[EngineRecord], wanted: str) -> EngineRecord | None:
    """Find the engine on a host, by the host's name or one of its addresses."""
    here = socket.gethostname()
    for engine in engines:
        if wanted == engine.host or (wanted in LOOPBACK and engine.host == here):
            return engine
    for engine in engines:
        if engine.host and wanted in await _addresses(engine.host):
            return engine
    return None


async def _addresses(host: str) -> set[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, None)
    except (OSError, UnicodeError, TimeoutError):
        return set()
    return {str(item[4][0]) for item in found}
