"""What is static about an engine and decides whether two may share bytes."""

from __future__ import annotations

import msgspec

from lmcache_core.keys.canonical import record_digest


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that must be equal before two engines exchange KV pages.

    Attributes:
        model: The model's name as it is served; for people, and in the digest.
        weights: Hex digest that names the weights by content.
        weights_epoch: Raised whenever the weights may have changed in place.
        engine: Engine and minor version, for example ``vllm-0.32``.
        dtype: Element type of the KV cache, for example ``bfloat16``.
        layout: The engine's name of its KV layout, for example ``LBHNC``.
        isa: What decides the order of bytes inside a page, for example
            ``cpu-avx512``.
        block_size: Tokens in a block, per KV group.
        page_bytes: Bytes of a page, per layer, in the order of the layers.
        chunk_size: Tokens in a chunk.
        ranks: Number of workers whose pages make up a chunk.
        extra: Further facts of the engine, for example quantisation.
    """

    model: str
    weights: str
    weights_epoch: int = 0
    engine: str = ""
    dtype: str = ""
    layout: str = ""
    isa: str = ""
    block_size: tuple[int, ...] = (1,)
    page_bytes: tuple[int, ...] = ()
    chunk_size: int = 256
    ranks: int = 1
    extra: dict[str, str] = {}

    def digest(self) -> bytes:
        """The namespace's 32-byte name."""
        return record_digest("lmcache:namespace:1", self)
