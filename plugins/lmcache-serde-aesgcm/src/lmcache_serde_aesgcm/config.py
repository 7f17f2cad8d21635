"""The configuration of ``aesgcm``."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

MAX_ID = 32

_ID = re.compile(rf"[A-Za-z0-9._-]{{1,{MAX_ID}}}")
_SOURCE = re.compile(r"(file|env):.+", re.DOTALL)


class AESGCMConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys there are and which of them encrypts.

    Attributes:
        keys: Where each key is found, by its id.
        encrypt_with: Id of the key that encrypts; None where there is only one.
    """

    keys: Annotated[
        dict[str, str],
        Meta(
            description="Where each key is found, by its id: `file:PATH` or `env:NAME`. All of "
            "them decrypt."
        ),
    ]
    encrypt_with: Annotated[
        str | None,
        Meta(description="Id of the key that encrypts; needed where there are several."),
    ] = None

    def __post_init__(self) -> None:
        """Check what is written.

        Raises:
            ValueError: It cannot be meant; never with a value of ``keys``, as
                somebody may have written a key there.
        """
        if not self.keys:
            raise ValueError("keys is empty; name at least one, for example {k1: file:/etc/kv.key}")
        for key_id, source in self.keys.items():
            if not _ID.fullmatch(key_id):
                raise ValueError(
                    f"the key id {key_id!r} is not 1 to {MAX_ID} letters, digits, '.', '_' or '-'"
                )
            if not _SOURCE.fullmatch(source):
                raise ValueError(
                    f"key {key_id!r} says neither file:PATH nor env:NAME; the key itself does not "
                    "belong in a configuration"
                )
        known = ", ".join(self.keys)
        if self.encrypt_with is None and len(self.keys) > 1:
            raise ValueError(f"encrypt_with has to say which key encrypts; there are {known}")
        if self.encrypt_with is not None and self.encrypt_with not in self.keys:
            raise ValueError(f"encrypt_with is {self.encrypt_with!r}; the keys are {known}")

    @property
    def encrypting(self) -> str:
        """Id of the key that encrypts."""
        return self.encrypt_with or next(iter(self.keys))
