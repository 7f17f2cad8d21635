"""The configuration as it is written: keys, units and defaults in one Struct.

The reader, the JSON schema and the reference documentation are all made from
the types and descriptions here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmcache_core.config.engine import DEFAULT_INSTANCE_ID

Size = Annotated[float, Meta(gt=0)]
"""A size in GiB."""

Seconds = Annotated[float, Meta(gt=0)]

Name = Annotated[str, Meta(min_length=1)]


class AdmitEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a chunk has to be for a tier to take it.

    Attributes:
        min_tokens: Its least length.
        min_reuse: How often it has to have been seen.
    """

    min_tokens: Annotated[
        int, Meta(ge=1, description="Chunks of fewer tokens, tails of prompts, are not taken.")
    ] = 1
    min_reuse: Annotated[
        int,
        Meta(
            ge=1,
            description="Chunks that were computed or hit fewer times are not taken: `2` keeps "
            "out what is asked once.",
        ),
    ] = 1


class StorageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of ``storage``; every other key is the plugin's own.

    Attributes:
        backend: The backend's name.
        max_size: Its bound in GiB.
        serde: What encodes its frames.
        write: When it is given chunks.
        promote: Whether it is given what was read below it.
        admit: What a chunk has to be for that.
    """

    backend: Annotated[
        str, Meta(description="Name of the backend, which is also the tier's location.")
    ]
    max_size: Annotated[Size | None, Meta(description="Bound of the tier in GiB.")] = None
    serde: Annotated[
        str | dict[str, Any] | tuple[str | dict[str, Any], ...] | None,
        Meta(
            description="What encodes the tier's frames: the name of a serde, a map of its `name` "
            "and its own keys, or a list of these in the order of encoding."
        ),
    ] = None
    write: Annotated[
        Literal["through", "back"],
        Meta(
            description="`through`: the tier is given every chunk when it is stored. `back`: it "
            "is given what the tier above evicts."
        ),
    ] = "through"
    promote: Annotated[
        bool | None,
        Meta(
            description="Whether what was read from a tier below is copied into this one too. By "
            "default it is where `write` is `through`; with `back` it comes when it is evicted "
            "above."
        ),
    ] = None
    admit: Annotated[
        AdmitEntry,
        Meta(description="Which chunks are let in: a map of `min_tokens` and `min_reuse`."),
    ] = AdmitEntry()


class EngineSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every key of an engine's configuration."""

    chunk_size: Annotated[
        int,
        Meta(
            ge=1,
            description="Tokens in a whole chunk. The default is rounded up to a multiple of "
            "the engine's block size; a size given here has to be one.",
        ),
    ] = 256
    storage: Annotated[
        tuple[StorageEntry, ...] | None,
        Meta(
            description="The tiers from the top, the memory tier first: each entry is a map of "
            "`backend`, `max_size` (GiB), the other keys of a tier and the plugin's own. Instead "
            "of `local_cpu`, `max_local_cpu_size`, `local_cpu_use_hugepages`, `local_disk`, "
            "`max_local_disk_size`, `remote_url` and `remote_serde`.",
        ),
    ] = None
    local_cpu: Annotated[
        bool,
        Meta(
            description="Host memory is always the first tier; `false` is taken with a notice.",
        ),
    ] = True
    max_local_cpu_size: Annotated[
        Size, Meta(description="Size of the memory tier in GiB, for the whole instance.")
    ] = 5.0
    local_cpu_use_hugepages: Annotated[
        bool, Meta(description="Whether the memory tier asks the kernel for huge pages.")
    ] = False
    local_disk: Annotated[
        str | None,
        Meta(
            description="Folder of a `LocalDiskBackend` below the memory tier, or several by comma "
            "on several disks; `file://` is taken."
        ),
    ] = None
    max_local_disk_size: Annotated[
        float, Meta(ge=0, description="Bound of that tier in GiB, for the whole instance.")
    ] = 0.0
    remote_url: Annotated[
        str | None,
        Meta(
            description="Address of a shared store below the others: `redis://`, `rediss://`, "
            "`valkey://`, `resp://`, `s3://`, `gs://`, `az://`."
        ),
    ] = None
    remote_serde: Annotated[
        str | None,
        Meta(description="Serde of that store's frames; `naive` for none."),
    ] = None
    staging_size: Annotated[
        Size | None,
        Meta(
            description="Memory in GiB beside the memory tier, which no entry and no pin may "
            "take, so that a full cache can still promote. By default a sixteenth of the memory "
            "tier, at least 64 MiB.",
        ),
    ] = None
    lmcache_instance_id: Annotated[
        str, Meta(min_length=1, description="The engine's id on every route of the controller.")
    ] = DEFAULT_INSTANCE_ID
    enable_controller: Annotated[bool, Meta(description="Whether to dial a controller.")] = False
    controller_url: Annotated[
        str | None,
        Meta(
            description="The controller's address, `tcp://host:port` or `host:port`; "
            "`tcp://localhost:9001` where `enable_controller` is set and no address is.",
        ),
    ] = None
    controller_pull_url: Annotated[
        str | None, Meta(description="The same, where `controller_url` is not set.")
    ] = None
    cache_policy: Annotated[
        str, Meta(min_length=1, description="Name of the eviction policy, in any case.")
    ] = "LRU"
    save_decode_cache: Annotated[
        bool, Meta(description="Whether to store generated tokens as well as prompts.")
    ] = False
    min_retrieve_tokens: Annotated[
        int, Meta(ge=0, description="Hits of fewer tokens are not loaded.")
    ] = 0
    pin_max_share: Annotated[
        float, Meta(ge=0, le=1, description="Share of each tier that pins may take, from 0 to 1.")
    ] = 0.8
    pin_owner_quota: Annotated[
        Size | None, Meta(description="What one owner's pins may take, in GiB; no bound if absent.")
    ] = None
    request_pin_owner: Annotated[
        Name | None,
        Meta(
            description="Owner of the pins that requests ask for with `lmcache.pin`. They may "
            "where this, `request_pin_quota` and `request_pin_max_ttl_seconds` are all given, "
            "which needs `enable_controller`.",
        ),
    ] = None
    request_pin_quota: Annotated[
        Size | None, Meta(description="What that owner's pins may take, in GiB.")
    ] = None
    request_pin_max_ttl_seconds: Annotated[
        Seconds | None, Meta(description="How long a pin that a request asks for lives at most.")
    ] = None
    promotion_timeout_seconds: Annotated[
        Seconds,
        Meta(description="How long a request waits for a hit to be read from a storage tier."),
    ] = 2.0
    storage_timeout_seconds: Annotated[
        Seconds, Meta(description="Deadline of one call of a storage backend.")
    ] = 10.0
    job_timeout_seconds: Annotated[
        Seconds,
        Meta(description="After this a copy that no worker has acknowledged raises an alarm."),
    ] = 30.0
    lmcache_worker_heartbeat_time: Annotated[
        Seconds, Meta(description="Seconds between two signs of life to the controller.")
    ] = 5.0
    serving_url: Annotated[
        str | None,
        Meta(
            description="Where the server answers, for example `http://localhost:8000`, so that "
            "the controller can have text tokenized and the prompts of pins computed.",
        ),
    ] = None
    on_start_failure: Annotated[
        Literal["serve", "fail"],
        Meta(
            description="What a failure of the machine at the start leads to (memory, disk, "
            "network): `serve` without the part that failed, or `fail`. All stores but a durable "
            "one of the engine's own join once they can be opened. A wrong configuration always "
            "fails.",
        ),
    ] = "serve"
    weights_epoch: Annotated[
        int, Meta(ge=0, description="Raise it whenever the weights change in place.")
    ] = 0
