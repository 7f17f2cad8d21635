"""Reading queries strictly: what is unknown, given twice or of a wrong value is named."""

from __future__ import annotations

import reprlib
from typing import Any, NamedTuple

import msgspec
from litestar.connection import ASGIConnection
from litestar.constants import RESERVED_KWARGS
from litestar.handlers import BaseRouteHandler
from litestar.params import ParameterKwarg

from lmcache_core.config.suggest import closest
from lmcache_core.controller.expected import expected
from lmcache_core.controller.failures import FieldError


class Parameter(NamedTuple):
    """What a route takes in its query under one name.

    Attributes:
        kind: The type of its value.
        is_list: Whether it may be given several times.
    """

    kind: Any
    is_list: bool


def check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse a query of which the route would ignore something, or misunderstand it; a guard.

    Litestar passes over names that it does not know, so that a deadline that
    is misspelt would be none, and of several values it takes one.

    Raises:
        FieldError: It names the parameter.
    """
    given = connection.query_params.dict()
    known = parameters(connection, handler) if given else {}
    for name, values in given.items():
        if name not in known:
            raise FieldError(_unknown(name, sorted(known)), available=sorted(known))
        kind, is_list = known[name]
        if len(values) > 1 and not is_list:
            raise FieldError(f"{name}: it is in the query twice; give it once")
        try:
            msgspec.convert(values if is_list else values[0], kind, strict=False)
        except msgspec.ValidationError as error:
            wanted = expected(kind) or str(error)
            wrong = reprlib.repr(values[0])
            raise FieldError(f"{name}: {wrong} is wrong; give {wanted}") from error


def parameters(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> dict[str, Parameter]:
    """What a route takes in its query, by name."""
    elsewhere = {*RESERVED_KWARGS, *handler.resolve_dependencies(), *connection.path_params}
    signature = handler.parsed_fn_signature.parameters
    found = {}
    for field in msgspec.structs.fields(handler.signature_model):
        said = signature[field.name].kwarg_definition
        said = said if isinstance(said, ParameterKwarg) else None
        if field.name not in elsewhere and not (said and said.header):
            name = (said and said.query) or field.name
            found[name] = Parameter(field.type, signature[field.name].is_non_string_sequence)
    return found


def _unknown(name: str, known: list[str]) -> str:
    unknown = f"unknown query parameter {reprlib.repr(name)}"
    if not known:
        return f"{unknown}; the route takes none, leave it out"
    close = closest(name, known)
    suggested = f"did you mean {close!r}? " if close else ""
    return f"{unknown}; {suggested}the route takes {', '.join(known)}"
