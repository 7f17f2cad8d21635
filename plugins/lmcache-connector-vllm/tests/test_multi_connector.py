"""Under vLLM's MultiConnector, beside another connector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm


def test_answers_are_equal_and_ours_is_read(
    serve: Callable[..., Any], fresh: Callable[[int], list[int]], tmp_path: Path
) -> None:
    example = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(tmp_path)},
    }
    serving = serve(transfer={"connectors": [example]})
    ids = fresh(100)
    cold = serving.ask_one(ids)
    assert cold.cached == 0
    warm = serving.ask_one(ids)
    assert warm.cached == 99
    assert warm.same_as(cold)
    other = serving.ask_one([*ids[:80], *fresh(40)])
    assert other.cached == 80
