"""Variables that a cluster sets for its services, some of which begin like ours.

In each pod Kubernetes sets variables for every service beside it, named after
the service: one called ``lmcache-controller`` sets ``LMCACHE_CONTROLLER_PORT``
to ``tcp://10.0.0.11:9000``, which nobody has configured.
"""

from __future__ import annotations

from collections.abc import Mapping

HOST = "_SERVICE_HOST"
"""Ending of the one variable that every service has."""


def without_service_links(environ: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The variables that start with ``prefix``, less those that a service has brought."""
    ours = {name: value for name, value in environ.items() if name.startswith(prefix)}
    services = [name.removesuffix(HOST) for name in ours if name.endswith(HOST)]
    return {
        name: value
        for name, value in ours.items()
        if not any(_is_of(service, name, value) for service in services)
    }


def _is_of(service: str, name: str, value: str) -> bool:
    if name == f"{service}_PORT":
        return "://" in value  # what a person has set instead is a number
    return name.startswith((f"{service}_SERVICE_", f"{service}_PORT_"))
