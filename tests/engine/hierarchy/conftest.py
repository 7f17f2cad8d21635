"""Engines over two stores, one below the other."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from lmcache_core.api import Capability
from tests.engine.hierarchy.stores import THROUGH, Gated
from tests.engine.rig import Rig, storage_spec


@pytest.fixture
def tiers():
    """Makes an engine over stores called ``near`` and ``far`` and lets go of all in the end."""
    with ExitStack() as stack:

        def make(near=THROUGH, far=THROUGH, *, stores=None, capabilities=Capability.NONE, **fields):
            stores = stores or {"near": Gated(), "far": Gated()}
            rules = {"near": near, "far": far}
            more = fields.pop("tier_fields", {})
            rig = Rig(
                storage=[
                    storage_spec(name, lambda _config, _context, store=store: store, capabilities)
                    for name, store in stores.items()
                ],
                tier_fields={name: {"rules": rules[name], **more.get(name, {})} for name in stores},
                **{"chunks": 4, "staging_chunks": 8, **fields},
            )
            stack.enter_context(rig)
            for store in stores.values():
                stack.callback(store.writing.set)
                stack.callback(store.gate.set)
            return rig, *stores.values()

        yield make
