"""The routes, one module per noun."""

from __future__ import annotations

from litestar import Controller, Router

from lmcache_core.controller.body import check_body
from lmcache_core.controller.query import check_query
from lmcache_core.controller.routes.classic import ClassicRoutes
from lmcache_core.controller.routes.instances import InstanceRoutes
from lmcache_core.controller.routes.jobs import JobRoutes
from lmcache_core.controller.routes.moving import MoveRoutes
from lmcache_core.controller.routes.pin_plan import PlanRoutes
from lmcache_core.controller.routes.pin_warm import WarmRoutes
from lmcache_core.controller.routes.pins import PinRoutes
from lmcache_core.controller.routes.plugins import PluginRoutes
from lmcache_core.controller.routes.recoding import RecodeRoutes
from lmcache_core.controller.routes.system import SystemRoutes

STRICT: list[type[Controller]] = [
    ClassicRoutes,
    MoveRoutes,
    RecodeRoutes,
    PinRoutes,
    PlanRoutes,
    WarmRoutes,
    JobRoutes,
    InstanceRoutes,
    PluginRoutes,
]

ROUTES: list[Router | type[Controller]] = [
    Router("/", route_handlers=STRICT, guards=[check_query, check_body]),
    # Load balancers and Prometheus ask these as they ask other services.
    SystemRoutes,
]

__all__ = ["ROUTES"]
