"""Fields that several requests have in common."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from lmcache_core.api.pins import PIN_ID_PATTERN
from lmcache_core.keys.chain import MAX_TOKEN_ID

TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]

Tokens = Annotated[
    list[TokenId],
    Meta(min_length=1, description="Token ids, as the server's /tokenize gives them."),
]

InstanceId = Annotated[str, Meta(min_length=1, max_length=256, description="An engine's id.")]

Location = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="Name of a tier, for example LocalCPUBackend."),
]

PinLocation = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        description="Name of a tier whose bytes are to stay, or any: the last copy stays, in "
        "whichever tier.",
    ),
]

Namespace = Annotated[
    str, Meta(min_length=1, max_length=1024, description="A model's name or an identity.")
]

Method = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=259,
        description="Name of a serde, for example zstd, or of several by comma, as they encode.",
    ),
]

Position = Annotated[
    tuple[InstanceId, Location], Meta(description="An engine's id and the name of a tier.")
]

PinId = Annotated[str, Meta(pattern=PIN_ID_PATTERN, description="A pin's name, fit for a URL.")]

EventId = Annotated[
    str, Meta(max_length=256, description="An operation's name and a uuid, as it was answered.")
]

Host = Annotated[str, Meta(max_length=256, description="A host's address or name.")]

Owner = Annotated[str, Meta(min_length=1, max_length=128, description="Who asks, for quotas.")]

Labels = Annotated[
    dict[Annotated[str, Meta(max_length=128)], Annotated[str, Meta(max_length=256)]],
    Meta(max_length=32, description="Notes of the operator's own."),
]

TtlSeconds = Annotated[
    float, Meta(gt=0, le=1e9, description="Seconds after which the pin ends by itself.")
]

TimeoutSeconds = Annotated[
    float, Meta(gt=0, le=300, description="Deadline of this request in seconds.")
]
