"""What a controller is configured with: file, environment, flags."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lmcache_core.config.address import SCHEME
from lmcache_core.config.resolve import KNOWN as ENGINE_KEYS
from lmcache_core.config.service_links import without_service_links
from lmcache_core.config.sources import Given, from_file
from lmcache_core.config.suggest import nearest
from lmcache_core.config.values import field_kinds, read_value
from lmcache_core.errors import ConfigError

PREFIX = "LMCACHE_CONTROLLER_"
FILE_VARIABLE = f"{PREFIX}CONFIG"

Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a controller is told from outside."""

    host: Annotated[
        str, Meta(min_length=1, description="Where the HTTP routes are served, by name or number.")
    ] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Their port; 0 takes any free one.")] = 9000
    monitor_host: Annotated[
        str,
        Meta(
            min_length=1,
            description="Where engines dial, by name or number. Of another transport than `tcp` "
            "with its scheme in front, `scheme://host`.",
        ),
    ] = "localhost"
    monitor_port: Annotated[Port, Meta(description="Their port; 0 takes any free one.")] = 9001
    token: Annotated[
        Annotated[str, Meta(min_length=8)] | None,
        Meta(description="Bearer token that every route but `/healthz` asks for."),
    ] = None
    token_file: Annotated[
        str | None, Meta(description="File that holds the token, alone or with a line end.")
    ] = None
    insecure: Annotated[
        bool,
        Meta(description="Serve addresses that are not loopback without a token."),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="What is logged at least.")
    ] = "info"
    ledger: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="SQLite file that pins and jobs are kept in, or `none` to keep them in "
            "memory only.",
        ),
    ] = None
    timeout_seconds: Annotated[
        Seconds, Meta(description="Deadline of a request that names none.")
    ] = 10.0
    lookup_settle_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="How long a look-up waits for stores under way; 0 waits for none.",
        ),
    ] = 0.25
    max_body_bytes: Annotated[
        int, Meta(ge=1024, description="Longest request body; a longer one is answered with 413.")
    ] = 16 << 20

    @property
    def monitor_name(self) -> str:
        """The host that engines dial, without a scheme."""
        return self.monitor_host.rpartition("://")[2]

    @property
    def monitor_address(self) -> str:
        """Where engines dial."""
        scheme = self.monitor_host.rpartition("://")[0] or SCHEME
        host = f"[{self.monitor_name}]" if ":" in self.monitor_name else self.monitor_name
        return f"{scheme}://{host}:{self.monitor_port}"

    @property
    def url(self) -> str:
        """Where the routes are; on this machine, where all of its addresses are served."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def ledger_path(self) -> Path | None:
        """The file of the pin ledger, or None where there is to be none.

        Raises:
            ConfigError: None is named and there is no home directory.
        """
        if self.ledger in ("none", ":memory:"):
            return None
        try:
            if self.ledger is not None:
                return Path(self.ledger).expanduser()
            state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        except RuntimeError as error:
            message = f"there is no home directory to keep the ledger in ({error}); name a file"
            raise ConfigError(message, key="ledger") from error
        return Path(state) / "lmcache" / "pins.sqlite"


KINDS = field_kinds(ControllerConfig)
"""The type of each key."""


def load_controller_config(
    *, file: str | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> ControllerConfig:
    """Read a controller's configuration: the file, the environment over it, flags over both.

    Args:
        file: YAML file, or None for the one ``LMCACHE_CONTROLLER_CONFIG`` names.
        environ: Where ``LMCACHE_CONTROLLER_*`` is read.
        flags: Values given on the command line; None where one was not given.

    Raises:
        ConfigError: Something is wrong, in one sentence; or an address that
            is not loopback is to be served without a token.
    """
    config = _resolve(file, environ, flags)
    _check_exposure(config)
    return config


def load_client_config(*, environ: Mapping[str, str], flags: Mapping[str, Any]) -> ControllerConfig:
    """Read where a controller is and its token, as the controller itself would be told.

    Args:
        environ: Where ``LMCACHE_CONTROLLER_*`` is read.
        flags: Values given on the command line; None where one was not given.

    Raises:
        ConfigError: Something is wrong, in one sentence.
    """
    return _resolve(None, environ, flags)


def _resolve(
    file: str | None, environ: Mapping[str, str], flags: Mapping[str, Any]
) -> ControllerConfig:
    file = file or environ.get(FILE_VARIABLE)
    values: dict[str, Any] = {}
    for source in (
        from_file(Path(file), FILE_VARIABLE) if file else {},
        _variables(environ),
        {key: Given(value, "command line") for key, value in flags.items()},
    ):
        values.update(_read(source))
    if "token_file" in values:
        values.update(_read(_token(Path(values["token_file"]))))
    return ControllerConfig(**values)


def _variables(environ: Mapping[str, str]) -> dict[str, Given]:
    """Take the controller's variables, and leave others' that share its prefix.

    ``LMCACHE_CONTROLLER_URL`` tells an engine where to dial; set for a whole
    machine or pod, it must not keep the controller there from starting. Nor
    must what a cluster sets for a service that is called like it.
    """
    return {
        name.removeprefix(PREFIX).lower(): Given(value, f"environment {name}")
        for name, value in without_service_links(environ, PREFIX).items()
        if name != FILE_VARIABLE and name.removeprefix("LMCACHE_").lower() not in ENGINE_KEYS
    }


def _read(given: Mapping[str, Given]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, item in given.items():
        if key not in KINDS:
            message = f"a controller has no key {key!r}{nearest(key, list(KINDS))}"
            raise ConfigError(message, source=item.origin)
        if item.value is None:
            continue
        try:
            values[key] = read_value(item.value, KINDS[key])
        except ValueError as error:
            # What will not do as a token may be one all the same, with a slip in it.
            why = "will not do; write at least 8 characters" if key == "token" else error
            raise ConfigError(f"{key} {why}", key=key, source=item.origin) from error
    return values


def _token(file: Path) -> dict[str, Given]:
    try:
        return {"token": Given(file.read_text(encoding="utf-8"), f"file {file}")}
    except (OSError, UnicodeDecodeError) as error:
        message = f"the token file {file} cannot be read: {error}"
        raise ConfigError(message, key="token_file") from error


def is_address(host: str) -> bool:
    """Whether a host is given by number."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _check_exposure(config: ControllerConfig) -> None:
    if config.insecure or config.token is not None:
        return
    for key, host in (("host", config.host), ("monitor_host", config.monitor_name)):
        if not is_loopback(host):
            message = (
                f"{key} {host} can be reached from other machines; give a token with "
                f"--token-file or {PREFIX}TOKEN, or say --insecure to serve everybody"
            )
            raise ConfigError(message, key=key)
