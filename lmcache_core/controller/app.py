"""The web application over a control plane."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, YamlRenderPlugin
from litestar.types import ASGIApp

from lmcache_core import __version__
from lmcache_core.config.controller import ControllerConfig
from lmcache_core.controller.auth import BearerGate, HostGate, OriginGate
from lmcache_core.controller.body import StrictRequest
from lmcache_core.controller.plane import ControlPlane
from lmcache_core.controller.problems import answer_with_problem
from lmcache_core.controller.request_id import RequestIdGate
from lmcache_core.controller.routes import ROUTES


def create_app(plane: ControlPlane) -> ASGIApp:
    """Make the application, behind its gates.

    Args:
        plane: What the routes speak to; the caller closes it.
    """
    handlers: dict[int | type[Exception], Any] = {
        HTTPException: answer_with_problem,
        Exception: answer_with_problem,
    }
    app = Litestar(
        route_handlers=ROUTES,
        dependencies={"plane": Provide(lambda: plane, sync_to_thread=False, use_cache=True)},
        exception_handlers=handlers,
        request_class=StrictRequest,
        request_max_body_size=plane.config.max_body_bytes,
        openapi_config=OpenAPIConfig(
            title="lmcache controller",
            version=__version__,
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/openapi.json"), YamlRenderPlugin()],
        ),
        logging_config=None,
        debug=False,
    )
    return RequestIdGate(OriginGate(_guarded(app, plane.config)))


def _guarded(app: ASGIApp, config: ControllerConfig) -> ASGIApp:
    """Let in whom the configuration lets in: who has the token, or whoever is on this machine."""
    if config.token is not None:
        return BearerGate(app, config.token)
    return app if config.insecure else HostGate(app, config.host)
