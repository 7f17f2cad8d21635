"""Messages of every kind, with something in every field."""

from __future__ import annotations

from lmcache_core.api.messages import (
    ClearCommand,
    ControllerMessage,
    EngineMessage,
    Events,
    Goodbye,
    HealthCommand,
    Heartbeat,
    Held,
    Identify,
    MoveCommand,
    PinCommand,
    Progress,
    RecodeCommand,
    Refused,
    Register,
    Reply,
    SettleCommand,
    TierStatus,
    UnpinCommand,
    WantSnapshot,
    Welcome,
)
from lmcache_core.api.pins import OnMissing, PinReport, PinRequest, PinState, Renew
from lmcache_core.keys import Namespace, Placeholder, Scope

_SCOPE = Scope(
    adapter="ab" * 32,
    salt="cd" * 32,
    tags={"user": "zoë"},
    placeholders=(Placeholder(identifier="ef" * 32, offset=3),),
)
_TIER = TierStatus(
    location="LocalDiskBackend",
    kind="storage",
    capacity_bytes=1 << 40,
    used_bytes=1 << 33,
    pinned_bytes=4096,
    entries=7,
    healthy=False,
    store_id="redis:größe",
    reason="redis at größe:6379 did not answer within 5 s",
)
_PIN = PinRequest(
    pin_id="p",
    version=2,
    location="LocalDiskBackend",
    tokens=bytes(range(256)),
    owner="zoë",
    scope=_SCOPE,
    ttl_seconds=1.5,
    renew=Renew.ON_HIT,
    on_missing=OnMissing.RESERVE,
    labels={"why": "漢字"},
)
_REPORT = PinReport(
    pin_id="p",
    version=2,
    state=PinState.DEGRADED,
    tokens_asked=64,
    tokens_pinned=32,
    first_missing=32,
    pinned_bytes=8192,
    reserved_bytes=4096,
    ttl_seconds=1.25,
    reason="a frame was lost",
)

ENGINE_MESSAGES: tuple[EngineMessage, ...] = (
    Register(
        instance_id="größe",
        incarnation=1 << 60,
        namespace=Namespace(model="m", weights="00" * 32, chunk_size=256, block_size=(16,)),
        tiers=(_TIER,),
        sequence=3,
        pid=17,
        host="h",
        serving_url="http://127.0.0.1:8000",
        version="0.1",
        heartbeat_seconds=2.5,
    ),
    Held(
        instance_id="größe",
        incarnation=1 << 60,
        pins=(_REPORT,),
        pin_requests=(_PIN,),
        last=True,
    ),
    Heartbeat(
        instance_id="größe",
        incarnation=1 << 60,
        sequence=4,
        tiers=(_TIER,),
        counters={"hit_tokens": 1 << 40},
        pins=(_REPORT,),
    ),
    Events(
        instance_id="größe",
        incarnation=1 << 60,
        sequence=5,
        location="LocalDiskBackend",
        admitted=bytes(range(64)),
        evicted=b"\xff" * 32,
        snapshot=True,
        last=True,
    ),
    Reply(
        instance_id="größe",
        incarnation=1 << 60,
        request_id="r",
        num_tokens=12,
        pin=_REPORT,
        error="capacity",
        detail="a sentence",
        facts={"used_bytes": 1},
    ),
    Progress(instance_id="größe", incarnation=1 << 60, request_id="r", done=3, total=1 << 20),
    Goodbye(instance_id="größe", incarnation=1 << 60),
)
"""One of each kind that an engine sends."""

CONTROLLER_MESSAGES: tuple[ControllerMessage, ...] = (
    Welcome(instance_id="i", incarnation=1, ledger_id="l", want_snapshot=False),
    Refused(instance_id="i", incarnation=1, reason="another has this id"),
    Identify(),
    WantSnapshot(),
    PinCommand(request_id="1", deadline_seconds=10.5, http_request_id="h", pin=_PIN),
    UnpinCommand(request_id="2", deadline_seconds=1.0, pin_id="p", version=3),
    ClearCommand(
        request_id="3",
        deadline_seconds=1.0,
        location="l",
        tokens=bytes(16),
        scope=_SCOPE,
        force=True,
    ),
    MoveCommand(
        request_id="4",
        deadline_seconds=1.0,
        location="a",
        target="b",
        tokens=bytes(16),
        scope=_SCOPE,
        keep=True,
        refuse_pinned=True,
    ),
    RecodeCommand(
        request_id="7",
        deadline_seconds=1.0,
        location="a",
        serdes=("zstd", "aesgcm"),
        undo=True,
        tokens=bytes(16),
        scope=_SCOPE,
    ),
    SettleCommand(request_id="5", deadline_seconds=1.0, tokens=bytes(16), scope=_SCOPE),
    HealthCommand(request_id="6", deadline_seconds=1.0),
)
"""One of each kind that a controller sends."""
