"""Data-parallel ranks: several engines that one configured id means."""

from __future__ import annotations

import re

_RANK = re.compile(r"_dp(\d+)")
_ENDS_IN_RANK = re.compile(rf".*{_RANK.pattern}", re.DOTALL)


def means(configured: str, instance_id: str) -> bool:
    """Whether an engine's id is the configured one, or that of one of its ranks.

    Args:
        configured: The id as it is configured, for example ``server``.
        instance_id: An engine's, for example ``server_dp1``.
    """
    return instance_id == configured or (
        instance_id.startswith(configured)
        and _RANK.fullmatch(instance_id, len(configured)) is not None
    )


def rank_of(instance_id: str) -> int | None:
    """The data-parallel rank that an engine's id names, or None."""
    match = _ENDS_IN_RANK.fullmatch(instance_id)
    return None if match is None else int(match[1])
