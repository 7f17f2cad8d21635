"""The ranks of one instance, as each of them reaches the others at the start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec
import torch
from vllm.distributed.parallel_state import get_pp_group, get_tp_group

from lmcache_core.errors import LMCacheError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work
    from vllm.config import ParallelConfig

T = TypeVar("T")

ANSWER_SECONDS = 300.0
"""How long a rank waits for the others, which may still be making their KV cache."""


class PeerError(LMCacheError):
    """Another rank has failed, and says why itself."""


class _Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What one rank tells the others of a piece of work.

    Attributes:
        error: Why it failed; None where it did not.
        value: The result, encoded.
    """

    error: str | None
    value: msgspec.Raw


class Peers:
    """The ranks of one instance: pipeline stage by stage, tensor rank by rank.

    Data-parallel ranks are instances of their own and no peers.

    Args:
        index: Place of this rank in that order.
        groups: What connects this rank to those of its stage, and then to
            those of its tensor rank; none where it is alone.

    Attributes:
        index: See above.
    """

    def __init__(self, index: int, groups: tuple[ProcessGroup, ...]) -> None:
        self.index = index
        self._groups = groups

    @classmethod
    def of(cls, parallel_config: ParallelConfig) -> Self:
        """The peers of the rank that this process is."""
        if parallel_config.world_size == 1:
            return cls(0, ())
        stage, tensor = get_pp_group(), get_tp_group()
        index = stage.rank_in_group * tensor.world_size + tensor.rank_in_group
        return cls(index, (tensor.cpu_group, stage.cpu_group))

    def agree(self, work: Callable[[], T], kind: type[T]) -> list[T]:
        """Do a piece of work on every rank, and fail on all where one fails.

        A rank that fails tells the others before it raises: they would wait
        for it otherwise.

        Args:
            work: This rank's part.
            kind: Type of its result, which travels as JSON.

        Returns:
            The results of all ranks, in their order.

        Raises:
            PeerError: Another rank failed.
            LMCacheError: The others did not answer in time.
            Exception: Whatever ``work`` raised.
        """
        failure: Exception | None = None
        value: T | None = None
        try:
            value = work()
        except Exception as error:  # noqa: BLE001 - raised below, when the others know
            failure = error
        said = None if failure is None else str(failure) or type(failure).__name__
        mine = msgspec.json.encode(_Outcome(said, msgspec.Raw(msgspec.json.encode(value))))
        outcomes = [msgspec.json.decode(each, type=_Outcome) for each in self._gather(mine)]
        if failure is not None:
            raise failure
        for index, outcome in enumerate(outcomes):
            if outcome.error is not None:
                raise PeerError(f"rank {index} of {len(outcomes)} failed: {outcome.error}")
        return [msgspec.json.decode(outcome.value, type=kind) for outcome in outcomes]

    def _gather(self, mine: bytes) -> list[bytes]:
        gathered = [mine]
        for group in self._groups:
            # First what those of this stage say, then what all stages do.
            parts = _all_gather(msgspec.json.encode(gathered), group)
            gathered = [each for part in parts for each in msgspec.json.decode(part, type=_Bytes)]
        return gathered


_Bytes = list[bytes]


def _all_gather(mine: bytes, group: ProcessGroup) -> list[bytes]:
    """Bytes of every rank of a group, which must not be a pickle's."""
    size = torch.distributed.get_world_size(group)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    _finish(torch.distributed.all_gather(lengths, torch.tensor([len(mine)]), group, async_op=True))
    longest = int(max(lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    buffers = [torch.zeros(longest, dtype=torch.uint8) for _ in range(size)]
    _finish(torch.distributed.all_gather(buffers, padded, group, async_op=True))
    return [
        bytes(buffer[: int(length)].tolist())
        for buffer, length in zip(buffers, lengths, strict=True)
    ]


def _finish(work: Work) -> None:
    try:
        work.wait(timedelta(seconds=ANSWER_SECONDS))
    except RuntimeError as error:
        message = f"the other ranks did not answer within {ANSWER_SECONDS:.0f} s: {error}"
        raise LMCacheError(message) from error
