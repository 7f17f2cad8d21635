"""The published vectors, the code and a plain reading of the page agree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lmcache_core.keys import KeyChain, Namespace, Scope

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "keys.md"


def published() -> dict[str, list[dict[str, Any]]]:
    text = PAGE.read_text(encoding="utf-8")
    block = text.split("```json\n")[1].split("```")[0]
    vectors: dict[str, list[dict[str, Any]]] = json.loads(block)
    return vectors


VECTORS = published()


def plain_json(value: object) -> str:
    """Canonical JSON as the page describes it, written without a JSON library."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return plain_string(value)
    if isinstance(value, list | tuple):
        return "[" + ",".join(plain_json(item) for item in value) + "]"
    assert isinstance(value, dict)
    pairs = [f"{plain_string(key)}:{plain_json(value[key])}" for key in sorted(value)]
    return "{" + ",".join(pairs) + "}"


def plain_string(text: str) -> str:
    short = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}
    out = ""
    for character in text:
        code = ord(character)
        if code in short:
            out += "\\" + short[code]
        elif code < 32:
            out += f"\\u{code:04x}"
        else:
            out += character
    return f'"{out}"'


def plain_digest(domain: str, record: object) -> bytes:
    return hashlib.sha256(domain.encode() + b"\0" + plain_json(record).encode()).digest()


def plain_keys(chain: dict[str, Any]) -> tuple[bytes, list[bytes]]:
    record = VECTORS["namespaces"][chain["namespace"]]["record"]
    namespace = plain_digest("lmcache:namespace:1", record)
    record = VECTORS["scopes"][chain["scope"]]["record"]
    scope = plain_digest("lmcache:scope:1", record)
    root = parent = hashlib.sha256(b"lmcache:root:1\0" + namespace + scope).digest()
    keys = []
    for start in range(0, len(chain["tokens"]), chain["chunk_size"]):
        tokens = chain["tokens"][start : start + chain["chunk_size"]]
        packed = b"".join(token.to_bytes(4, "little") for token in tokens)
        parent = hashlib.sha256(parent + packed).digest()
        keys.append(parent)
    return root, keys


@pytest.mark.parametrize("vector", VECTORS["namespaces"])
def test_namespace_digest(vector: dict[str, Any]) -> None:
    namespace = msgspec.convert(vector["record"], Namespace)
    assert namespace.digest().hex() == vector["digest"]
    assert plain_digest("lmcache:namespace:1", vector["record"]).hex() == vector["digest"]
    assert set(vector["record"]) == {field.name for field in msgspec.structs.fields(Namespace)}


@pytest.mark.parametrize("vector", VECTORS["scopes"])
def test_scope_digest(vector: dict[str, Any]) -> None:
    scope = msgspec.convert(vector["record"], Scope)
    assert scope.digest().hex() == vector["digest"]
    assert plain_digest("lmcache:scope:1", vector["record"]).hex() == vector["digest"]
    assert set(vector["record"]) == {field.name for field in msgspec.structs.fields(Scope)}


@pytest.mark.parametrize("vector", VECTORS["chains"])
def test_chain(vector: dict[str, Any]) -> None:
    root, keys = plain_keys(vector)
    assert root.hex() == vector["root"]
    assert [key.hex() for key in keys] == vector["keys"]
    seed = KeyChain.seed(
        bytes.fromhex(VECTORS["namespaces"][vector["namespace"]]["digest"]),
        bytes.fromhex(VECTORS["scopes"][vector["scope"]]["digest"]),
    )
    assert seed == root
    chain = KeyChain(seed, vector["chunk_size"])
    chain.extend(vector["tokens"])
    whole = len(chain.keys)
    assert chain.keys == keys[:whole]
    rest = len(chain) - whole * vector["chunk_size"]
    if rest:
        assert chain.key(whole, rest) == keys[whole]


def test_strings_are_escaped_as_the_page_says() -> None:
    odd = "".join(map(chr, range(0x80))) + "\u2028 é 漢 \U0001f600"
    record = {"model": odd, "weights": "", "extra": {odd: odd, "Z": "", "a": "", "é": ""}}
    namespace = msgspec.convert(record, Namespace)
    assert namespace.digest() == plain_digest("lmcache:namespace:1", msgspec.to_builtins(namespace))
