"""Who we are at a server."""

from __future__ import annotations

import os
from pathlib import Path

from redis.credentials import CredentialProvider

from lmcache_backend_redis.address import parse_address
from lmcache_backend_redis.config import RedisConfig
from lmcache_core.errors import BackendError


class Credentials(CredentialProvider):
    """User and password, read anew for each connection, so that they can be changed.

    Args:
        config: Says where they are.
    """

    def __init__(self, config: RedisConfig) -> None:
        address = parse_address(config.url)
        self._username = config.username or address.username
        self._password = config.password or address.password
        self._file = config.password_file
        self._variable = config.password_env

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return any((self._username, self._password, self._file, self._variable))

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read them.

        Raises:
            BackendError: They are not where the configuration says.
        """
        password = self._read()
        return (self._username, password) if self._username else (password,)

    def _read(self) -> str:
        if self._file is not None:
            try:
                return Path(self._file).expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                message = f"the password_file {self._file} cannot be read: {error.strerror}"
                raise BackendError(message) from error
        if self._variable is not None:
            value = os.environ.get(self._variable)
            if value is None:
                message = (
                    f"the environment has no variable {self._variable}, which password_env names"
                )
                raise BackendError(message)
            return value
        return self._password or ""
