"""Naming LoRA adapters by content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmcache_connector_vllm.uncacheable import UncacheableError
from lmcache_connector_vllm.weights import local_folder

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

DESCRIPTION = "adapter_config.json"
PATTERNS = (DESCRIPTION, "*.safetensors", "*.bin", "*.pt")


class _Known(NamedTuple):
    """An adapter that has been read: what its files looked like, and its name."""

    signature: tuple[tuple[str, int, int], ...]
    digest: str


class AdapterNames:
    """Content digests of the adapters that requests bring.

    Adapters of one rank and base have files of one shape, so nothing short of
    their content tells them apart; each is read once, when its first request
    comes, as vLLM itself is about to do.
    """

    def __init__(self) -> None:
        # As many as there are adapters in this server's life; vLLM keeps more
        # of each.
        self._known: dict[tuple[int, str], _Known] = {}

    def name(self, lora: LoRARequest) -> str:
        """The adapter's name by content.

        Args:
            lora: What vLLM knows of the adapter.

        Raises:
            UncacheableError: Its content cannot be read, or has changed since
                vLLM may have loaded it.
        """
        key = (lora.lora_int_id, lora.lora_path)
        try:
            files = _files(lora.lora_path)
            signature = tuple(
                (file.name, stat.st_size, stat.st_mtime_ns)
                for file, stat in ((file, file.stat()) for file in files)
            )
            known = self._known.get(key)
            if known is None or lora.load_inplace:
                if not files:
                    raise UncacheableError(f"no files of LoRA adapter {lora.lora_name} are here")
                known = self._known[key] = _Known(signature, _digest(files))
        except OSError as error:
            message = f"LoRA adapter {lora.lora_name} cannot be read: {error}"
            raise UncacheableError(message) from error
        if known.signature != signature:
            # vLLM may have the old weights loaded or the new ones.
            raise UncacheableError(
                f"the files of LoRA adapter {lora.lora_name} have changed since it was loaded; "
                "load it under a new name, or in place"
            )
        return known.digest


def content_name(path: str) -> str:
    """The name by content of an adapter, as it is in the keys of what it computes.

    Args:
        path: The adapter's folder, or its name in the hub's local cache.

    Raises:
        UncacheableError: There is no adapter, or it cannot be read.
    """
    try:
        files = _files(path)
        names = [file.name for file in files]
        if names[:1] != [DESCRIPTION] or len(names) == 1:
            message = (
                f"no LoRA adapter is in {path}: expected {DESCRIPTION} and weights "
                f"({', '.join(PATTERNS[1:])}), found {', '.join(names) or 'none of them'}; give "
                "the path that vLLM is given"
            )
            raise UncacheableError(message)
        return _digest(files)
    except OSError as error:
        raise UncacheableError(f"LoRA adapter {path} cannot be read: {error}") from error
    except ModuleNotFoundError as error:  # Where there is no vLLM, there may be none.
        message = (
            f"no folder is at {path}, and huggingface_hub, which knows what of the hub is here, is "
            "not installed; give the adapter's folder"
        )
        raise UncacheableError(message) from error


def _files(path: str) -> list[Path]:
    # vLLM's own resolution would download, and hold up the scheduler meanwhile.
    folder = local_folder(path, None, DESCRIPTION)
    if folder is None:
        return []
    return [file for pattern in PATTERNS for file in sorted(folder.glob(pattern))]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256(b"lmcache:adapter:1\0")
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
