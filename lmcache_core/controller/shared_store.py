"""Which store two instances share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lmcache_core.api.messages import TierStatus
from lmcache_core.controller.engine_record import EngineRecord
from lmcache_core.errors import ConflictError


class SharedStore(NamedTuple):
    """One, and what the two call it.

    Attributes:
        source: The tier's name in the one.
        target: The tier's name in the other.
    """

    source: str
    target: str


def shared_store(
    sources: Sequence[EngineRecord], targets: Sequence[EngineRecord], location: str, target: str
) -> SharedStore | None:
    """The store that chunks can take from one instance to another.

    Where one of the two places is such a store itself, it is that one.

    Args:
        sources: The ranks of the one.
        targets: The ranks of the other.
        location: Where the chunks are.
        target: Where they are to go.

    Returns:
        The store, or None where the two places are one store, so that there
        is nothing to do.

    Raises:
        ConflictError: Their caches do not fit each other, or there is no such store.
    """
    for engine in targets:
        if engine.digest != sources[0].digest:
            raise ConflictError(_unlike(sources[0], engine))
    ours, theirs = _shared_by_all(sources), _shared_by_all(targets)
    for name, store_id in ours.items():
        if name == location and theirs.get(target) == store_id:
            return None
    common = [
        SharedStore(name, other)
        for name, store_id in ours.items()
        for other, other_id in theirs.items()
        if store_id == other_id
    ]
    if not common:
        message = (
            f"instances {sources[0].instance_id!r} and {targets[0].instance_id!r} share no store, "
            f"and chunks go from one to another by way of one: {_tiers_of(sources[0])}; "
            f"{_tiers_of(targets[0])}; give both a tier over one Redis or object store, healthy on "
            "both sides"
        )
        raise ConflictError(message)
    return max(common, key=lambda store: (store.source == location) + (store.target == target))


def _shared_by_all(engines: Sequence[EngineRecord]) -> Mapping[str, str]:
    """By name, the stores that all ranks of an instance share under that name."""
    found = {tier.location: tier.store_id for tier in engines[0].tiers if tier.store_id}
    return {
        name: store_id
        for name, store_id in found.items()
        if all(any(_is(tier, name, store_id) for tier in engine.tiers) for engine in engines)
    }


def _is(tier: TierStatus, name: str, store_id: str) -> bool:
    return tier.location == name and tier.store_id == store_id


def _tiers_of(engine: EngineRecord) -> str:
    tiers = ", ".join(
        f"{tier.location} ({f'shared, {tier.store_id}' if tier.store_id else 'its own'})"
        for tier in engine.tiers
    )
    return f"{engine.instance_id!r} has {tiers or 'no tier'}"


def _unlike(one: EngineRecord, other: EngineRecord) -> str:
    return (
        f"instance {one.instance_id!r} serves {one.namespace.model!r} under namespace "
        f"{one.digest.hex()[:16]}, and {other.instance_id!r} serves {other.namespace.model!r} "
        f"under {other.digest.hex()[:16]}: a chunk of the one is no chunk of the other. GET "
        "/v1/instances shows in what their namespaces differ"
    )
