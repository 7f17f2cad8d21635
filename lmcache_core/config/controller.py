"""What a controller is configured with: file, environment, flags."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from lmcache_core.config.address import SCHEME
from lmcache_core.config.resolve import KNOWN as ENGINE_KEYS
from lmcache_core.config.service_links import without_service_links
from lmcache_core.config.suggest import nearest
from lmcache_core.errors import ConfigError

PREFIX = "LMCACHE_CONTROLLER_"

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
    file = file or environ.get(f"{PREFIX}CONFIG")
    config = ControllerConfig()
    if file:
        config = _apply(config, _read(file), source=f"file {file}", strict=True)
    config = _apply(config, _variables(environ), source=f"environment {PREFIX}*", strict=False)
    given = {key: value for key, value in flags.items() if value is not None}
    config = _apply(config, given, source="command line", strict=True)
    return _with_token(config)


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Take the controller's variables, and leave others' that share its prefix.

    ``LMCACHE_CONTROLLER_URL`` tells an engine where to dial; set for a whole
    machine or pod, it must not keep the controller there from starting. Nor
    must what a cluster sets for a service that is called like it.
    """
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in without_service_links(environ, PREFIX).items()
        if name != f"{PREFIX}CONFIG"
        and name.removeprefix("LMCACHE_").lower() not in ENGINE_KEYS
    }


def _read(file: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        message = f"the configuration file {file} cannot be read: {error}"
        raise ConfigError(message) from error
    except yaml.YAMLError as error:
        message = f"the configuration file {file} is no YAML: {' '.join(str(error).split())}"
        raise ConfigError(message) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        message = f"the configuration file {file} is no map of keys to values"
        raise ConfigError(message)
    return values


def _apply(
    config: ControllerConfig, values: Mapping[str, Any], *, source: str, strict: bool
) -> ControllerConfig:
    known = [field.name for field in msgspec.structs.fields(ControllerConfig)]
    for key, value in values.items():
        if key not in known:
            message = f"a controller has no key {key!r}{nearest(str(key), known)}"
            raise ConfigError(message, source=source)
        merged = {**msgspec.structs.asdict(config), key: value}
        try:
            config = msgspec.convert(merged, ControllerConfig, strict=strict)
        except msgspec.ValidationError as error:
            what = str(error).partition(" - at ")[0]
            shown = "what is given" if key == "token" else repr(value)
            message = f"{key}: {shown} will not do: {what[:1].lower()}{what[1:]}"
            raise ConfigError(message, key=key, source=source) from error
    return config


def _with_token(config: ControllerConfig) -> ControllerConfig:
    if config.token_file is None:
        return config
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"the token file {config.token_file} cannot be read: {error}"
        raise ConfigError(message, key="token_file") from error
    return _apply(config, {"token": token}, source=f"file {config.token_file}", strict=True)


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
