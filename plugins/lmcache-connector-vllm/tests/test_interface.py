"""The hooks take whatever the installed vLLM hands to them."""

from __future__ import annotations

import inspect

import pytest

pytestmark = pytest.mark.vllm


def accepts(ours: inspect.Signature, theirs: inspect.Signature) -> bool:
    """Whether every call that fits their signature fits ours, by position and by name."""
    kinds = inspect.Parameter
    mine = ours.parameters
    anything = any(parameter.kind is kinds.VAR_KEYWORD for parameter in mine.values())
    for place, (name, parameter) in enumerate(theirs.parameters.items()):
        if parameter.kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD):
            if parameter.kind is kinds.VAR_KEYWORD and not anything:
                return False
        elif name not in mine:
            if parameter.kind is not kinds.KEYWORD_ONLY or not anything:
                return False
        elif parameter.kind is not kinds.KEYWORD_ONLY and list(mine).index(name) != place:
            return False
    extra = set(mine) - set(theirs.parameters)
    return all(
        mine[name].default is not kinds.empty
        or mine[name].kind in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        for name in extra
    )


def test_every_hook_takes_what_the_interface_says() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, SupportsHMA

    from lmcache_connector_vllm.connector import LMCacheConnectorV1

    compared = []
    for base in (KVConnectorBase_V1, SupportsHMA):
        for name, theirs in vars(base).items():
            ours = getattr(LMCacheConnectorV1, name)
            if name.startswith("_") or not callable(theirs) or ours is getattr(base, name):
                continue
            compared.append(name)
            assert accepts(inspect.signature(ours), inspect.signature(theirs)), name
    assert {"start_load_kv", "build_connector_meta", "request_finished_all_groups"} <= {*compared}
    assert LMCacheConnectorV1.__abstractmethods__ == frozenset()


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (lambda self, a: None, lambda self, a: None, True),
        (lambda self, b: None, lambda self, a: None, False),
        (lambda self: None, lambda self, a: None, False),
        (lambda self, a: None, lambda self, a, **more: None, False),
        (lambda self, a, **more: None, lambda self, a, **more: None, True),
        (lambda self, a, b: None, lambda self, a: None, False),
        (lambda self, b, a: None, lambda self, a, b: None, False),
        (lambda self, a, b=1: None, lambda self, a: None, True),
    ],
)
def test_what_fits_and_what_does_not(ours: object, theirs: object, fits: bool) -> None:
    assert accepts(inspect.signature(ours), inspect.signature(theirs)) is fits  # type: ignore[arg-type]
