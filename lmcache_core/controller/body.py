"""Reading request bodies strictly: no coercion, unknown fields named."""

from __future__ import annotations

import functools
import re
import typing
from typing import Any

import msgspec
from litestar import Request

from lmcache_core.config.suggest import nearest
from lmcache_core.controller.failures import BodyError, FieldError

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


class StrictRequest(Request[Any, Any, Any]):
    """Decodes a body straight into the type its handler asks for.

    Litestar decodes to plain values first and converts those leniently, so
    that ``true`` would be token 1 and ``"7"`` token 7.
    """

    async def json(self) -> Any:  # noqa: ANN401 - as in the base class
        """The body, of the type of the handler's ``data``.

        Raises:
            BodyError: It is no JSON.
            FieldError: A field is missing, unknown, or of a wrong value.
        """
        field = self.route_handler.parsed_data_field
        return decode(await self.body(), field.annotation if field else Any)


def decode(body: bytes, kind: Any) -> Any:  # noqa: ANN401 - any Struct
    """Decode a body.

    Raises:
        BodyError: It is no JSON.
        FieldError: A field is missing, unknown, or of a wrong value.
    """
    try:
        return _decoder(kind).decode(body)
    except msgspec.ValidationError as error:
        raise FieldError(_explain(error, body, kind)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"the body is no JSON: {error}"
        raise BodyError(message) from error


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:  # noqa: ANN401 - any Struct
    return msgspec.json.Decoder(kind)


def _explain(error: msgspec.ValidationError, body: bytes, kind: Any) -> str:  # noqa: ANN401
    match = _PLACE.match(str(error))
    what, path = (match["what"], match["path"]) if match else (str(error), None)
    if "unknown field" in what and not path:
        struct = next(k for k in typing.get_args(kind) or (kind,) if k is not type(None))
        known = [field.encode_name for field in msgspec.structs.fields(struct)]
        given = msgspec.json.decode(body)
        unknown = [name for name in given if name not in known]
        named = ", ".join(repr(name) for name in unknown)
        return f"unknown field {named}{nearest(unknown[0], known)}"
    return f"{path or 'body'}: {what[:1].lower()}{what[1:]}"
