"""The configuration of ``object-store``."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

SECRETS = frozenset(
    {
        "access_key",
        "account_key",
        "bearer_token",
        "client_secret",
        "encryption_key",
        "fabric_session_token",
        "master_key",
        "sas_key",
        "sas_token",
        "secret_access_key",
        "service_account_key",
        "session_token",
        "sse_customer_key_base64",
        "token",
    }
)
"""Options that no configuration may show, without the prefix of their cloud."""

_CLOUD = re.compile(r"^(aws|azure_storage|azure|google)_")

KINDS = ("s3", "gs", "az", "file")


class ObjectStoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the objects are and how they are reached.

    Attributes:
        url: ``s3://bucket/prefix``, ``gs://bucket/prefix``,
            ``az://container/prefix`` or ``file:///folder``.
        endpoint: Address of the service, where it is not the cloud's own.
        region: Region of the bucket, S3 only.
        allow_http: Whether the endpoint may be reached without TLS.
        credentials_file: File with the options that are secret.
        options: Further settings of obstore for this kind of store.
        part_mib: The least that is a part of a frame, in MiB.
        requests: Most requests at a time of one call.
    """

    url: Annotated[
        str,
        Meta(
            description="`s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or "
            "`file:///FOLDER`; engines with the same one share what they store.",
        ),
    ]
    endpoint: Annotated[
        str | None,
        Meta(description="Address of the service, where it is not the cloud's own."),
    ] = None
    region: Annotated[str | None, Meta(description="Region of the bucket, for S3.")] = None
    allow_http: Annotated[
        bool, Meta(description="Whether the service may be spoken to without TLS.")
    ] = False
    credentials_file: Annotated[
        str | None,
        Meta(
            description="A YAML or JSON map of the options that are secret, such as "
            "`secret_access_key`; without it they come from the environment or the instance.",
        ),
    ] = None
    options: Annotated[
        dict[str, str | bool],
        Meta(description="Further settings of obstore for this kind of store; no secrets."),
    ] = msgspec.field(default_factory=dict)
    part_mib: Annotated[
        int,
        Meta(
            ge=5,  # what S3 takes as a part
            le=1024,
            description="A frame is put and got in parts of at least so many MiB, several at a "
            "time; one shorter than two parts is moved whole.",
        ),
    ] = 16
    requests: Annotated[
        int, Meta(ge=1, le=1024, description="Most requests of one call at a time.")
    ] = 32

    def __post_init__(self) -> None:
        """Refuse what could only fail later, or would show a secret."""
        address = urlsplit(self.url)
        if address.scheme not in KINDS:
            known = ", ".join(f"{kind}://" for kind in KINDS)
            message = f"url has the scheme {address.scheme!r}; it takes {known}"
            raise ValueError(message)
        if "@" in address.netloc or address.query or address.fragment:
            message = (
                "url holds more than a bucket and a prefix; credentials go into "
                "credentials_file or the environment, settings into options"
            )
            raise ValueError(message)
        if self.kind == "file":
            self._check_folder(address.netloc)
        elif not address.netloc:
            message = f"url names no bucket; write {self.kind}://BUCKET/PREFIX"
            raise ValueError(message)
        if self.region is not None and self.kind != "s3":
            message = f"region is for s3:// and url is {self.kind}://; leave it out"
            raise ValueError(message)
        if self.endpoint and not self.allow_http and not self.endpoint.startswith("https://"):
            message = (
                f"endpoint {self.endpoint!r} is not https://; where prompts may cross that "
                "network in the clear, set allow_http: true"
            )
            raise ValueError(message)
        shown = [name for name in self.options if is_secret(name)]
        if shown:
            message = (
                f"options holds {shown[0]!r}, which is a secret; put it into credentials_file "
                "or the environment"
            )
            raise ValueError(message)

    @property
    def kind(self) -> str:
        """The scheme of the address."""
        return self.url.partition("://")[0]

    def _check_folder(self, host: str) -> None:
        if host:
            message = f"url names the host {host!r}; a folder is written file:///FOLDER"
            raise ValueError(message)
        if not urlsplit(self.url).path.strip("/"):
            message = "url names no folder; write file:///FOLDER"
            raise ValueError(message)
        if self.endpoint or self.credentials_file or self.options:
            message = "a folder has no endpoint, credentials_file or options; leave them out"
            raise ValueError(message)


def is_secret(option: str) -> bool:
    """Whether a setting of obstore is a secret."""
    return _CLOUD.sub("", option.lower()) in SECRETS
