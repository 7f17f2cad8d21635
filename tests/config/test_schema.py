"""The JSON schema says what the reader says."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from lmcache_core.config import engine_schema, incumbent
from lmcache_core.config.resolve import KEYS

SCHEMA = engine_schema()


def valid(document: dict[str, Any]) -> bool:
    return jsonschema_rs.validator_for(SCHEMA).is_valid(document)


def test_it_is_a_schema() -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMA)


def test_it_knows_every_key_that_is_honoured_or_ignored() -> None:
    properties = SCHEMA["properties"]
    assert set(properties) == KEYS | set(incumbent.IGNORED)
    assert {key for key in properties if properties[key].get("deprecated")} == set(
        incumbent.IGNORED
    )
    assert all(item["description"] for item in properties.values())


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"chunk_size": 256, "max_local_cpu_size": 5, "lmcache_worker_port": 8001},
        {"storage": [{"backend": "LocalCPUBackend", "max_size": 5, "hugepages": True}]},
        {"on_start_failure": "fail", "pin_max_share": 0.5},
        {"storage": [{"backend": "A", "serde": ["a", {"name": "b"}], "write": "back"}]},
        {"storage": [{"backend": "A", "serde": "a", "admit": {"min_reuse": 2}}]},
    ],
)
def test_good_documents(document: dict[str, Any]) -> None:
    assert valid(document)


@pytest.mark.parametrize(
    "document",
    [
        {"chunk_sise": 1},
        {"chunk_size": 0},
        {"chunk_size": "256k"},
        {"max_local_cpu_size": 0},
        {"pin_max_share": 2},
        {"storage": [{"max_size": 5}]},
        {"storage": [{"backend": "A", "write": "sideways"}]},
        {"storage": [{"backend": "A", "serde": 7}]},
        {"storage": [{"backend": "A", "admit": {"min_use": 2}}]},
        {"on_start_failure": "explode"},
        {"enable_p2p": True},
    ],
)
def test_wrong_documents(document: dict[str, Any]) -> None:
    assert not valid(document)
