"""What must not be shared is not, and what can be is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lmcache_connector_vllm.adapter_command import adapter
from lmcache_core.api.pins import PinRequest
from lmcache_core.keys import Scope, tokens_to_bytes

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of one shape and unlike content, and a copy of the first."""
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("adapters")
    folders = {}
    for name, seed in (("first", 1), ("second", 2), ("copy of first", 1)):
        folder = folders[name] = root / name
        folder.mkdir()
        settings = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "v_proj"],
            "base_model_name_or_path": "tiny",
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        random = torch.Generator().manual_seed(seed)
        tensors = {}
        for layer in range(2):
            for module, width in (("q_proj", 128), ("v_proj", 64)):
                prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}."
                tensors[prefix + "lora_A.weight"] = torch.randn(8, 128, generator=random)
                tensors[prefix + "lora_B.weight"] = torch.randn(width, 8, generator=random) / 10
        save_file(tensors, folder / "adapter_model.safetensors")
    return folders


def check_salts_are_apart(serving: Any, ids: list[int]) -> None:
    """Requests of unlike salts share nothing; of one salt they do."""
    cold = serving.ask_one(ids, salt="one")
    assert serving.ask_one(ids, salt="two").cached == 0
    assert serving.ask_one(ids).cached == 0
    warm = serving.ask_one(ids, salt="one")
    assert warm.cached == len(ids) - 1
    assert warm.same_as(cold)


def check_adapters_are_apart(serving: Any, ids: list[int], adapters: dict[str, Path]) -> None:
    """Requests of unlike adapters and of none share nothing, whatever the names."""
    from vllm.lora.request import LoRARequest

    loras = {
        name: LoRARequest(name, number, str(folder))
        for number, (name, folder) in enumerate(adapters.items(), start=1)
    }
    base = serving.ask_one(ids)
    first = serving.ask_one(ids, lora=loras["first"])
    second = serving.ask_one(ids, lora=loras["second"])
    assert (base.cached, first.cached, second.cached) == (0, 0, 0)
    assert not first.same_as(second), "the adapters do nothing"
    for cold, lora in ((base, None), (first, loras["first"]), (second, loras["second"])):
        warm = serving.ask_one(ids, lora=lora)
        assert warm.cached == len(ids) - 1
        assert warm.same_as(cold)
    copy = serving.ask_one(ids, lora=loras["copy of first"])
    assert copy.cached == len(ids) - 1, "equal content has one name"
    assert copy.same_as(first)


def serve_adapters(serve: Callable[..., Any]) -> Any:
    return serve(enable_lora=True, max_lora_rank=8, max_loras=3)


def test_salts(serve: Callable[..., Any], fresh: Callable[[int], list[int]]) -> None:
    check_salts_are_apart(serve(), fresh(100))


def test_a_salt_that_is_left_out_of_the_key_is_noticed(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_of_scope(monkeypatch, cache_salt=None)
    with pytest.raises(AssertionError):
        check_salts_are_apart(serve(), fresh(100))


def test_tags(serve: Callable[..., Any], fresh: Callable[[int], list[int]]) -> None:
    serving = serve()
    ids = fresh(100)
    serving.ask_one(ids, **{"lmcache.tag.tenant": "a"})
    assert serving.ask_one(ids, **{"lmcache.tag.tenant": "b"}).cached == 0
    assert serving.ask_one(ids).cached == 0
    assert serving.ask_one(ids, **{"lmcache.tag.tenant": "a"}).cached == 99


def test_a_tag_that_is_no_string_leaves_the_request_uncached(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(100)
    for _ in range(2):
        assert serving.ask_one(ids, **{"lmcache.tag.tenant": 7}).cached == 0


def test_skip_save(serve: Callable[..., Any], fresh: Callable[[int], list[int]]) -> None:
    serving = serve()
    ids = fresh(100)
    serving.ask_one(ids, **{"lmcache.skip_save": True})
    assert serving.ask_one(ids).cached == 0
    # It asks for nothing about reading.
    assert serving.ask_one(ids, **{"lmcache.skip_save": True}).cached == 99


def test_a_request_that_skips_the_prefix_cache_is_computed(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(100)
    serving.ask_one(ids)
    sampling = serving.sampling(4)
    sampling.skip_reading_prefix_cache = True
    (output,) = serving.llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
    serving.settle()
    assert output.num_cached_tokens == 0
    assert serving.leased() == 0


def test_reset_forgets_everything_and_deletes_nothing(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(100)
    cold = serving.ask_one(ids)
    assert serving.scheduler.reset_prefix_cache(reset_connector=True)
    again = serving.ask_one(ids)
    assert again.cached == 0
    warm = serving.ask_one(ids)
    assert warm.cached == 99
    assert again.same_as(cold)
    assert warm.same_as(cold)
    assert serving.totals()["LocalCPUBackend.evictions"] == 0


def test_what_was_begun_before_a_reset_is_not_stored(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]]
) -> None:
    serving = serve()
    ids = fresh(400)
    serving.llm.llm_engine.add_request(
        "begun before", {"prompt_token_ids": ids}, serving.sampling(4)
    )
    serving.llm.llm_engine.step()
    assert serving.connector.reset_cache()
    while serving.llm.llm_engine.has_unfinished_requests():
        serving.llm.llm_engine.step()
    serving.settle()
    assert serving.ask_one(ids).cached == 0


def leave_out_of_scope(monkeypatch: pytest.MonkeyPatch, **left_out: None) -> None:
    """Make keys that do not depend on a part of the scope."""
    from lmcache_connector_vllm import scope

    real = scope.Scope.of

    class Forgetful:
        @staticmethod
        def of(**parts: Any) -> Any:
            return real(**{**parts, **left_out})

    monkeypatch.setattr(scope, "Scope", Forgetful)


def test_adapters(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], adapters: dict[str, Path]
) -> None:
    check_adapters_are_apart(serve_adapters(serve), fresh(100), adapters)


def test_a_pin_names_an_adapter_as_the_command_prints_it(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], adapters: dict[str, Path]
) -> None:
    from vllm.lora.request import LoRARequest

    serving, ids = serve_adapters(serve), fresh(100)
    serving.ask_one(ids, lora=LoRARequest("first", 1, str(adapters["first"])))
    for name, held in (("first", 100), ("copy of first", 100), ("second", 0)):
        printed = CliRunner().invoke(adapter, [str(adapters[name])]).stdout.strip()
        request = PinRequest(
            pin_id=name,
            version=1,
            location="LocalCPUBackend",
            tokens=tokens_to_bytes(ids),
            scope=Scope.of(adapter=printed),
        )
        with serving.engine.tiers.lock:
            assert serving.engine.tiers.pins.pin(request).tokens_pinned == held


def test_an_adapter_that_is_left_out_of_the_key_is_noticed(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    adapters: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leave_out_of_scope(monkeypatch, adapter=None)
    with pytest.raises(AssertionError):
        check_adapters_are_apart(serve_adapters(serve), fresh(100), adapters)


def test_an_adapter_that_changed_on_disk_is_not_cached(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], adapters: dict[str, Path]
) -> None:
    from vllm.lora.request import LoRARequest

    serving = serve_adapters(serve)
    folder = adapters["second"]
    lora = LoRARequest("changing", 9, str(folder))
    ids = fresh(100)
    serving.ask_one(ids, lora=lora)
    assert serving.ask_one(ids, lora=lora).cached == 99
    settings = folder / "adapter_config.json"
    settings.write_text(settings.read_text() + "\n")
    assert serving.ask_one(ids, lora=lora).cached == 0
    assert serving.ask_one(ids, lora=lora).cached == 0


@pytest.mark.parametrize(("role", "stored"), [("kv_producer", True), ("kv_consumer", False)])
def test_roles(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    role: str,
    stored: bool,
) -> None:
    serving = serve(transfer={"kv_role": role})
    ids = fresh(100)
    serving.ask_one(ids)
    assert serving.ask_one(ids).cached == 0
    assert bool(serving.totals()["stored_tokens"]) is stored
