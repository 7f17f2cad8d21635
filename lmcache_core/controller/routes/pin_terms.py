"""What a pin is asked for with, besides where it is to be."""

from __future__ import annotations

import msgspec

from lmcache_core.api.pins import OnMissing
from lmcache_core.controller.routes import fields
from lmcache_core.controller.routes.prompted import Prompted


class PinTerms(Prompted, frozen=True, kw_only=True):
    """Of what, whose, for how long; the classic routes and those under ``/v1`` have it alike."""

    owner: fields.Owner = "default"
    ttl_s: fields.TtlSeconds | None = None
    on_missing: OnMissing = OnMissing.PARTIAL
    labels: fields.Labels = msgspec.field(default_factory=dict)
    timeout_s: fields.TimeoutSeconds | None = None
