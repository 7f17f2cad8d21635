"""Naming weights by content, without reading all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lmcache_core.log import get_logger

if TYPE_CHECKING:
    from vllm.config import ModelConfig

log = get_logger(__name__)

SAMPLES = 64
SAMPLE_BYTES = 64 * 1024
"""Of a larger file this many pieces of this length are read, evenly spread:
4 MiB tell two fine-tunes of one shape apart, and reading 140 GB would take
minutes of every start."""

DESCRIPTION_FILES = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
WEIGHT_PATTERNS = ("*.safetensors", "*.index.json", "*.bin", "*.pt", "*.gguf")


def weights_digest(model_config: ModelConfig) -> str:
    """Hex digest that names a model's weights, configuration and tokenizer."""
    return model_digest(model_config.model, model_config.revision, str(model_config.tokenizer))


def model_digest(model: str, revision: str | None, tokenizer: str | None = None) -> str:
    """Hex digest that names a model's weights and configuration, and a tokenizer.

    Two folders of equal content have one name, wherever they lie. A change
    that leaves sizes, headers and every sampled byte as they are is not seen;
    whoever makes one raises ``weights_epoch``.

    Args:
        model: A path, or a name on the hub.
        revision: Which state of it, or None.
        tokenizer: A path of a tokenizer that does not lie beside the weights.
    """
    folder = local_folder(model, revision, "config.json")
    digest = hashlib.sha256(b"lmcache:weights:1\0")
    if folder is None:
        log.warning(
            "weights.named_by_name",
            model=model,
            reason="its files are not on this machine; raise weights_epoch whenever they change",
        )
        digest.update(f"{model}\0{revision}".encode())
    else:
        for path in _model_files(folder):
            _add_file(digest, path)
    other = Path(tokenizer) if tokenizer else None
    if other is not None and other.is_dir() and other != folder:
        for path in _present(other, DESCRIPTION_FILES[1:]):
            _add_file(digest, path)
    return digest.hexdigest()


def local_folder(name: str, revision: str | None, file: str) -> Path | None:
    """Where the files of a model or adapter lie: as named, or in the hub's local cache.

    Args:
        name: A path, or a name on the hub.
        revision: Which state of it, or None.
        file: A file that it has in any case.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - only for hub names
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _model_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    files = _present(folder, DESCRIPTION_FILES)
    for pattern in WEIGHT_PATTERNS:
        files += sorted(folder.glob(pattern))
    return files


def _present(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name}\0{size}\0".encode())
    with path.open("rb") as file:
        if size <= SAMPLES * SAMPLE_BYTES:
            digest.update(file.read())
            return
        # The first sample holds the header, the last one the end of the file.
        for index in range(SAMPLES):
            file.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
