"""Names by content: weights, adapters, scopes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_core.keys import Placeholder


def checkpoint(folder: Path, weights: bytes = b"w" * 1000) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return SimpleNamespace(model=str(folder), tokenizer=str(folder), revision=None)


def test_equal_files_have_one_name_wherever_they_lie(tmp_path: Path) -> None:
    from lmcache_connector_vllm.weights import weights_digest

    one, two = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "two")
    assert weights_digest(one) == weights_digest(two)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_every_file_is_in_the_name(tmp_path: Path, name: str) -> None:
    from lmcache_connector_vllm.weights import weights_digest

    config = checkpoint(tmp_path / "model")
    before = weights_digest(config)
    content = bytearray((tmp_path / "model" / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / "model" / name).write_bytes(content)
    assert weights_digest(config) != before


def test_large_weights_are_told_apart_by_samples(tmp_path: Path) -> None:
    from lmcache_connector_vllm.weights import SAMPLE_BYTES, SAMPLES, weights_digest

    size = 3 * SAMPLES * SAMPLE_BYTES
    names = set()
    for start in (0, size // 3, size // 2, size - 1000):
        weights = bytearray(size)
        # A fine-tune changes a tensor, not a byte.
        stop = min(size, start + size // 20)
        weights[start:stop] = b"x" * (stop - start)
        names.add(weights_digest(checkpoint(tmp_path / f"from-{start}", bytes(weights))))
    assert len(names) == 4


def test_a_model_that_is_not_here_is_named_by_its_name() -> None:
    pytest.importorskip("huggingface_hub")
    from lmcache_connector_vllm.weights import weights_digest

    def absent(name: str, revision: str | None = None) -> Any:
        return SimpleNamespace(model=name, tokenizer=name, revision=revision)

    names = {
        weights_digest(absent("nobody/nothing")),
        weights_digest(absent("nobody/nothing", "v2")),
        weights_digest(absent("nobody/something")),
        weights_digest(absent("s3://bucket/nothing")),
    }
    assert len(names) == 4


def request(**changes: Any) -> Any:
    plain: dict[str, Any] = {
        "prompt_embeds": None,
        "prompt_token_ids": [1, 2],
        "resumable": False,
        "lora_request": None,
        "cache_salt": None,
        "kv_transfer_params": None,
        "mm_features": [],
    }
    return SimpleNamespace(**{**plain, **changes})


def picture(identifier: str, offset: int) -> Any:
    return SimpleNamespace(identifier=identifier, mm_position=SimpleNamespace(offset=offset))


def test_everything_that_varies_is_in_the_scope() -> None:
    from lmcache_connector_vllm.scope import Scopes

    scopes = Scopes()
    variants = [
        request(),
        request(cache_salt="a"),
        request(cache_salt="b"),
        request(kv_transfer_params={"lmcache.tag.user": "a"}),
        request(kv_transfer_params={"lmcache.tag.group": "a"}),
        request(mm_features=[picture("one", 3)]),
        request(mm_features=[picture("two", 3)]),
        request(mm_features=[picture("one", 4)]),
    ]
    assert len({scopes.of(each).digest() for each in variants}) == len(variants)
    assert scopes.of(variants[5]).placeholders == (Placeholder("one", 3),)


def test_parameters_of_others_are_not_tags() -> None:
    from lmcache_connector_vllm.scope import Scopes

    other = request(kv_transfer_params={"do_remote_decode": True, "lmcache.skip_save": True})
    assert Scopes().of(other) == Scopes().of(request())


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_embeds": object()},
        {"prompt_token_ids": None},
        {"resumable": True},
        {"kv_transfer_params": {"lmcache.tag.user": 7}},
    ],
)
def test_what_cannot_be_named_is_not_cached(changes: dict[str, Any]) -> None:
    from lmcache_connector_vllm.scope import Scopes
    from lmcache_connector_vllm.uncacheable import UncacheableError

    with pytest.raises(UncacheableError):
        Scopes().of(request(**changes))


@pytest.mark.parametrize(
    ("value", "skips"), [(True, True), ("true", True), (1, True), (False, False), (None, False)]
)
def test_skip_save_is_read_as_it_is_written(value: object, skips: bool) -> None:
    from lmcache_connector_vllm.scope import skips_save

    assert skips_save(request(kv_transfer_params={"lmcache.skip_save": value})) is skips
    assert skips_save(request()) is False


def test_adapters_without_files_have_no_name(tmp_path: Path) -> None:
    from lmcache_connector_vllm.adapters import AdapterNames
    from lmcache_connector_vllm.uncacheable import UncacheableError

    names = AdapterNames()
    lora = SimpleNamespace(
        lora_name="a", lora_int_id=1, lora_path=str(tmp_path), load_inplace=False
    )
    with pytest.raises(UncacheableError, match="no files"):
        names.name(lora)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    first = names.name(lora)
    assert names.name(lora) == first
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    with pytest.raises(UncacheableError, match="changed"):
        names.name(lora)
    lora.load_inplace = True
    assert names.name(lora) != first
