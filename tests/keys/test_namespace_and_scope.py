"""Whatever differs between two engines or requests, their keys differ too."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import pytest

from lmcache_core.keys import EMPTY_SCOPE, KeyChain, Namespace, Placeholder, Scope
from lmcache_core.keys.canonical import record_digest

PLAIN = Namespace(model="m", weights="w")

NAMESPACES = [
    PLAIN,
    *(
        msgspec.structs.replace(PLAIN, **{field: value})
        for field, value in {
            "model": "n",
            "weights": "v",
            "weights_epoch": 1,
            "engine": "vllm-0.32",
            "dtype": "float32",
            "layout": "LBHNC",
            "isa": "cpu-amx",
            "block_size": (2,),
            "page_bytes": (4096,),
            "chunk_size": 128,
            "ranks": 2,
            "extra": {"quantization": "fp8"},
        }.items()
    ),
    Namespace(model="mw", weights=""),
    Namespace(model="m", weights="w", engine="dtype", dtype=""),
    Namespace(model="m", weights="w", engine="", dtype="dtype"),
    Namespace(model="m", weights="w", block_size=(1, 1)),
    Namespace(model="m", weights="w", page_bytes=(40, 96)),
]

SCOPES = [
    EMPTY_SCOPE,
    Scope.of(adapter=""),
    Scope.of(adapter="a"),
    Scope.of(cache_salt=""),
    Scope.of(cache_salt="a"),
    Scope.of(cache_salt="b"),
    Scope.of(adapter="a", cache_salt="a"),
    Scope.of(tags={"a": ""}),
    Scope.of(tags={"a": "b"}),
    Scope.of(tags={"b": "a"}),
    Scope.of(tags={"a": "", "b": ""}),
    Scope.of(placeholders=(Placeholder("x", 0),)),
    Scope.of(placeholders=(Placeholder("x", 1),)),
    Scope.of(placeholders=(Placeholder("x", 0), Placeholder("y", 4))),
    Scope.of(placeholders=(Placeholder("y", 0), Placeholder("x", 4))),
]


def test_every_field_of_a_namespace_is_tried() -> None:
    changed = {
        field.name
        for field in msgspec.structs.fields(Namespace)
        for other in NAMESPACES
        if getattr(other, field.name) != getattr(PLAIN, field.name)
    }
    assert changed == {field.name for field in msgspec.structs.fields(Namespace)}


def test_no_two_namespaces_and_scopes_share_a_root() -> None:
    roots = {
        (number, index): KeyChain.seed(namespace.digest(), scope.digest())
        for number, namespace in enumerate(NAMESPACES)
        for index, scope in enumerate(SCOPES)
    }
    for one, other in combinations(roots, 2):
        assert roots[one] != roots[other], (one, other)


def test_a_namespace_and_a_scope_of_equal_text_have_unlike_digests() -> None:
    record = {"a": 1}
    assert record_digest("lmcache:namespace:1", record) != record_digest("lmcache:scope:1", record)


def test_the_order_of_tags_does_not_matter() -> None:
    one = Scope.of(tags={"a": "1", "b": "2"})
    assert one.digest() == Scope.of(tags={"b": "2", "a": "1"}).digest()


def test_the_salt_itself_is_kept_nowhere() -> None:
    scope = Scope.of(cache_salt="tenant-7")
    assert "tenant-7" not in str(msgspec.to_builtins(scope))
    assert scope.salt is not None
    assert len(scope.salt) == 64


@pytest.mark.parametrize("record", [{"a": 1.0}, [1, [2.5]], {"a": {"b": (0.1,)}}])
def test_a_float_is_refused(record: Any) -> None:
    with pytest.raises(ValueError, match="no canonical spelling"):
        record_digest("x", record)
