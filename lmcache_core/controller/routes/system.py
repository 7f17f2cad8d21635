"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import msgspec
from litestar import Controller, Response, get

from lmcache_core.controller.metrics import CONTENT_TYPE, Metrics
from lmcache_core.controller.plane import ControlPlane


class Status(msgspec.Struct, frozen=True):
    """How the controller is.

    Attributes:
        status: ``ok`` or ``starting``.
    """

    status: str


OK = Status("ok")


class SystemRoutes(Controller):
    """What load balancers and Prometheus ask for."""

    tags = ("system",)

    @get("/healthz", sync_to_thread=False)
    def healthz(self) -> Status:
        """Whether the process answers; needs no token."""
        return OK

    @get("/readyz", sync_to_thread=False, raises=[])
    def readyz(self, plane: ControlPlane) -> Response[Status]:
        """Whether engines are listened to and the ledger can be written; 503 where not."""
        ready = plane.is_ready
        return Response(OK if ready else Status("starting"), status_code=200 if ready else 503)

    @get("/metrics", sync_to_thread=False, media_type=CONTENT_TYPE)
    def metrics(self, plane: ControlPlane) -> str:
        """The metrics in Prometheus' text format."""
        return Metrics(plane).render()
