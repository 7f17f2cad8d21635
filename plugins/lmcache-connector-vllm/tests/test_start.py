"""How an instance starts: wrong settings end it, failures of the machine do not."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmcache_core.config import EngineConfig
from lmcache_core.errors import BackendError, ConfigError, UnknownNameError

vllm = pytest.mark.vllm


def test_the_entry_point_imports_nothing_heavy() -> None:
    program = (
        "import sys, lmcache_connector_vllm.takeover, lmcache_connector_vllm.plugin\n"
        "heavy = {'torch', 'vllm', 'numba', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@vllm
def test_vllm_finds_this_connector_under_the_known_name(serve: Callable[..., Any]) -> None:
    from lmcache_connector_vllm.connector import LMCacheConnectorV1

    assert type(serve().connector) is LMCacheConnectorV1


@vllm
@pytest.mark.parametrize(("asked", "taken"), [("", False), ("1", True)])
def test_beside_lmcache_the_name_is_taken_only_when_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    taken: bool,
) -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    from lmcache_connector_vllm import takeover

    info = tmp_path / "lmcache-0.5.6.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lmcache\nVersion: 0.5.6\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LMCACHE_CONNECTOR_TAKEOVER", asked)
    registry = {takeover.NAME: object()}
    monkeypatch.setattr(KVConnectorFactory, "_registry", registry)
    takeover.register()
    assert (registry[takeover.NAME] is takeover.load_checked_connector) is taken
    assert "lmcache 0.5.6" in caplog.text


@vllm
def test_a_registry_that_has_moved_is_said_with_the_way_round(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    from lmcache_connector_vllm import takeover

    monkeypatch.delattr(KVConnectorFactory, "_registry")
    takeover.register()
    assert "kv_connector_module_path" in caplog.text


@vllm
def test_a_wrong_file_ends_the_start_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any], engines: Any
) -> None:
    engines.stop()
    file = tmp_path / "lmcache.yaml"
    file.write_text("chunk_sise: 256\n")
    monkeypatch.setenv("LMCACHE_CONFIG_FILE", str(file))
    with pytest.raises(ConfigError, match="chunk_size"):
        serve()


@vllm
def test_settings_come_from_file_environment_and_transfer_config(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    engines: Any,
) -> None:
    engines.stop()
    file = tmp_path / "lmcache.yaml"
    file.write_text("chunk_size: 256\nmin_retrieve_tokens: 50\nlmcache_instance_id: from-file\n")
    monkeypatch.setenv("LMCACHE_CONFIG_FILE", str(file))
    monkeypatch.setenv("LMCACHE_MIN_RETRIEVE_TOKENS", "60")
    serving = serve(lmcache={"chunk_size": 96})
    config = serving.connector._config
    assert (config.chunk_size, config.min_retrieve_tokens) == (96, 60)
    assert config.instance_id == "from-file"
    # Short hits are not loaded where that is configured.
    short, long = fresh(60), fresh(61)
    serving.ask([short, long])
    assert serving.ask_one(short).cached == 0
    assert serving.ask_one(long).cached == 60
    assert serving.leased() == 0
    engines.stop()


@vllm
@pytest.mark.parametrize(
    ("lmcache", "error", "sentence"),
    [
        ({"chunk_size": 100}, ConfigError, "set chunk_size to 96 or 128"),
        ({"cache_policy": "LRUU"}, UnknownNameError, "LRU"),
        ({"storage": [{"backend": "Floppy", "max_size": 1}]}, UnknownNameError, "LocalCPU"),
    ],
)
def test_wrong_settings_end_the_start_with_a_sentence(
    serve: Callable[..., Any], lmcache: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        serve(lmcache=lmcache)


@vllm
def test_the_machine_failing_leaves_it_serving(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    engines: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    huge = {"max_local_cpu_size": 1_000_000}
    serving = serve(lmcache=huge)
    ids = fresh(40)
    assert serving.ask_one(ids).tokens == serving.ask_one(ids).tokens
    assert serving.scheduler.reset_prefix_cache(reset_connector=True)
    assert "connector.start_failed" in caplog.text
    engines.stop()
    with pytest.raises(BackendError):
        serve(lmcache={**huge, "on_start_failure": "fail"})


@vllm
def test_a_kind_of_kv_that_is_not_known_is_served_without_a_cache(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    make_model: Callable[..., Path],
    engines: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lmcache_connector_vllm import support

    engines.stop()
    # As if sliding windows were what Mamba is.
    monkeypatch.setattr(support, "CACHED", support.CACHED[:-1])
    with caplog.at_level(logging.WARNING, "lmcache"):
        serving = serve(model=make_model("--layers", "4", "--sliding-window", "64"))
    said = [record.getMessage() for record in caplog.records if "declined" in record.getMessage()]
    assert len(said) == 1
    assert "KV cache group 0 (model.layers.0.self_attn.attn) keeps its KV as" in said[0]
    ids = fresh(200)
    first, second = serving.ask_one(ids), serving.ask_one(ids)
    assert (first.cached, second.cached) == (0, 0)
    assert second.same_as(first)
    engines.stop()


@vllm
@pytest.mark.parametrize("who", ["a rank", "the scheduler"])
def test_what_a_rank_or_the_scheduler_declines_is_said_once_and_served(
    serve: Callable[..., Any],
    fresh: Callable[[int], list[int]],
    engines: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    who: str,
) -> None:
    from lmcache_connector_vllm import connector, worker_start
    from lmcache_connector_vllm.place import Place
    from lmcache_connector_vllm.unserved import UnservedError

    engines.stop()
    if who == "a rank":
        reason = "rank 1 of 2 is on another host"

        def declines(*_: object) -> None:
            raise UnservedError(reason)

        monkeypatch.setattr(worker_start, "shard_of", declines)
    else:
        reason = "the scheduler is on another host (boot id elsewhere,"
        elsewhere = SimpleNamespace(here=lambda: Place("elsewhere", "pid:[1]"))
        monkeypatch.setattr(connector, "Place", elsewhere)
    with caplog.at_level(logging.WARNING, "lmcache"):
        serving = serve()
    said = [record for record in caplog.records if "connector." in record.getMessage()]
    assert len(said) == 1
    assert reason in said[0].getMessage()
    assert serving.connector._scheduler is None
    ids = fresh(40)
    assert serving.ask_one(ids).tokens == serving.ask_one(ids).tokens
    engines.stop()


def test_a_chunk_size_below_the_block_is_answered_with_the_block() -> None:
    from lmcache_connector_vllm.settings import fitted_chunk_size

    with pytest.raises(ConfigError, match="set chunk_size to 32,"):
        fitted_chunk_size(EngineConfig(chunk_size=10, chunk_size_explicit=True), 32)


@pytest.mark.parametrize(("block", "size"), [(32, 256), (16, 256), (96, 288), (400, 400)])
def test_the_default_chunk_size_is_rounded_up_to_whole_blocks(block: int, size: int) -> None:
    from lmcache_connector_vllm.settings import fitted_chunk_size

    assert fitted_chunk_size(EngineConfig(), block) == size


def test_every_data_parallel_rank_is_an_instance() -> None:
    from lmcache_connector_vllm.settings import instance_id

    def parallel(size: int, index: int) -> Any:
        return SimpleNamespace(data_parallel_size=size, data_parallel_index=index)

    assert instance_id("here", parallel(1, 0)) == "here"
    assert instance_id("here", parallel(2, 0)) == "here_dp0"
    # vLLM tells independent ranks that they are alone.
    assert instance_id("here", parallel(1, 3)) == "here_dp3"
