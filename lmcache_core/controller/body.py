"""Reading request bodies strictly: no coercion, unknown fields named."""

from __future__ import annotations

import functools
import reprlib
import typing
from typing import Any

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from lmcache_core.config.suggest import nearest
from lmcache_core.controller.expected import expected
from lmcache_core.controller.failures import BodyError, BodyTypeError, FieldError
from lmcache_core.controller.query import parameters

_PLACE = " - at `$"
"""What msgspec puts between what is wrong and where that is."""

MAX_NAMED = 8
"""So many unknown fields are named in an answer."""

MAX_SHOWN = 300
"""So many characters of what was given are."""

_SAY_NOTHING = frozenset({"application/x-www-form-urlencoded", "text/plain"})
"""What clients call a body whose type they were not told: ``curl -d``, a browser's ``fetch``."""

_NO_FIELDS = frozenset({b"", b"{}", b"null"})


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a body straight into the type its handler asks for.

    Litestar decodes to plain values first and converts those leniently, so
    that ``true`` would be token 1 and ``"7"`` token 7.
    """

    async def json(self) -> Any:  # noqa: ANN401 - as in the base class
        """The body, of the type of the handler's ``data``.

        Raises:
            BodyTypeError: It is no JSON, and its Content-Type says so.
            BodyError: It is no JSON.
            FieldError: A field is missing, unknown, or of a wrong value.
        """
        field = self.route_handler.parsed_data_field
        try:
            return decode(await self.body(), field.annotation if field else Any)
        except BodyError as error:
            called = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if not called or called in _SAY_NOTHING or called.endswith(("/json", "+json")):
                raise
            message = f"the body is no JSON but {called[:80]!r}; send JSON, as application/json"
            raise BodyTypeError(message) from error


async def check_body(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """Refuse a body that is missing, or that the route would not read; a guard.

    Raises:
        BodyError: It says what to send.
    """
    if not isinstance(connection, Request):
        return
    body = await connection.body()
    field = handler.parsed_data_field
    if field is None:
        if body.strip() not in _NO_FIELDS:
            taken = ", ".join(parameters(connection, handler))
            where = f"its query takes {taken}" if taken else "leave it out"
            raise BodyError(f"the route takes no body; {where}")
    elif not body and not field.is_optional:
        raise BodyError(f"the body is empty; send a JSON object {_told(field.annotation)}")


def decode(body: bytes, kind: Any) -> Any:  # noqa: ANN401 - any Struct
    """Decode a body.

    Raises:
        BodyError: It is no JSON.
        FieldError: A field is missing, unknown, or of a wrong value.
    """
    try:
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        # What stands before the end of a broken body is no field of anything.
        raise _wrong_field(error, decode(body, Any), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BodyError(f"the body is no JSON: {error}; send a JSON object in UTF-8") from error


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any Struct
    return msgspec.json.Decoder(kind)


def _wrong_field(error: msgspec.ValidationError, given: Any, kind: Any) -> FieldError:  # noqa: ANN401
    what, placed, place = str(error).rpartition(_PLACE)
    what, path = (what, place.rstrip("`").removeprefix(".")) if placed else (place, "")
    fields = _fields(kind)
    if "unknown field" in what and not path:
        known = sorted(field.encode_name for field in fields)
        unknown = [name for name in given if name not in known]
        named = ", ".join(map(reprlib.repr, unknown[:MAX_NAMED]))
        more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
        close = nearest(unknown[0][:MAX_SHOWN], known)
        return FieldError(f"unknown field {named}{more}{close}", available=known)
    # What was given stands in the message, as long as it was and with its line breaks.
    what = " ".join(what[:MAX_SHOWN].split())
    said = f"{path or 'body'}: {what[:1].lower()}{what[1:]}"
    wanted = next((expected(field.type) for field in fields if field.encode_name == path), None)
    return FieldError(f"{said}; give {wanted}" if wanted else said)


def _fields(kind: Any) -> tuple[msgspec.structs.FieldInfo, ...]:  # noqa: ANN401 - any Struct
    """The fields of a Struct, or of one that may be left out."""
    struct = next(k for k in typing.get_args(kind) or (kind,) if k is not type(None))
    return msgspec.structs.fields(struct)


def _told(kind: Any) -> str:  # noqa: ANN401 - any Struct
    """What a body of a kind has to have, or what it may have."""
    fields = _fields(kind)
    needed = [field.encode_name for field in fields if field.required]
    if needed:
        return f"with {', '.join(needed)}"
    return f"{{}} at least; it may have {', '.join(field.encode_name for field in fields)}"
