"""Making obstore's client out of the configuration; nothing is asked of a store here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import msgspec
from obstore.exceptions import BaseError
from obstore.store import LocalStore, from_url

from lmcache_backend_object_store.bucket import Bucket
from lmcache_backend_object_store.config import ObjectStoreConfig
from lmcache_backend_object_store.folder import Folder
from lmcache_core.errors import BackendError, ConfigError

if TYPE_CHECKING:  # obstore has it for type checkers only
    from obstore.store import ObjectStore

# Every call brings its own deadline; the client's would only cut long ones short.
_CLIENT_SECONDS = 3600.0

# What a busy store answers for a moment only; the deadline bounds the whole.
_RETRIES = {
    "max_retries": 3,
    "backoff": {
        "init_backoff": timedelta(seconds=0.05),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}


def connect(config: ObjectStoreConfig) -> Bucket:
    """Make the requests of a store possible.

    Raises:
        BackendError: The folder cannot be made.
        ConfigError: A setting is unknown or wrong, or the file with the
            credentials cannot be read.
    """
    if config.kind == "file":
        return _folder(Path(unquote(urlsplit(config.url).path)), config.url)
    return Bucket(_client(config), requests=config.requests, part_bytes=config.part_mib << 20)


def _client(config: ObjectStoreConfig) -> ObjectStore:
    settings: dict[str, Any] = {**config.options, **_credentials(config.credentials_file)}
    if config.endpoint:
        settings["base_url" if config.kind == "gs" else "endpoint"] = config.endpoint
    if config.region:
        settings["region"] = config.region
    options = {
        "allow_http": config.allow_http,
        "timeout": timedelta(seconds=_CLIENT_SECONDS),
    }
    make: Callable[..., ObjectStore] = from_url  # typed for one cloud at a time
    try:
        return make(config.url, config=settings, client_options=options, retry_config=_RETRIES)
    except (BaseError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        message = (
            f"object-store cannot use {config.url} with these settings: {reason}; see the "
            "settings of this kind of store in the documentation of obstore"
        )
        raise ConfigError(message, key="options") from error


def _folder(path: Path, url: str) -> Folder:
    try:
        # Frames hold what users have asked.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Folder(LocalStore(path), path)
    except (OSError, BaseError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"the folder of {url} cannot be made: {reason}; name one that this user may write"
        raise BackendError(message) from error


def _credentials(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    file = Path(path).expanduser()
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=dict[str, str])
    except OSError as error:
        reason = error.strerror
    except (msgspec.DecodeError, msgspec.ValidationError):
        # What is wrong with it is not told: it would be a piece of it.
        reason = "it is no map of names to texts"
    message = (
        f"credentials_file {file} cannot be read: {reason}; write a YAML map such as "
        "secret_access_key: ..., readable by this user"
    )
    raise ConfigError(message, key="credentials_file")
