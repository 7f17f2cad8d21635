"""What every kit does: checks that stay as they are, and honest exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar, TypeVar

import pytest

from lmcache_core.api import Capability

CheckT = TypeVar("CheckT", bound=Callable[..., None])

NEEDS = "__lmcache_needs__"


def needs(capability: Capability) -> Callable[[CheckT], CheckT]:
    """Make a check obligatory for, and only for, backends that declare a capability."""

    def mark(check: CheckT) -> CheckT:
        setattr(check, NEEDS, capability)
        return check

    return mark


class Conformance:
    """Root of the kits.

    A kit's direct subclass defines checks (``test_*``); whoever subclasses
    the kit runs them and may add tests, but cannot replace a check.

    Attributes:
        capabilities: What the implementation declares; take it from its spec.
        EXPECTED_FAILURES: Checks that are known to fail, each with the
            reason. They are reported as expected failures, and one that
            passes is a failure, so that the list cannot go stale.
    """

    capabilities: ClassVar[Capability] = Capability.NONE
    EXPECTED_FAILURES: ClassVar[Mapping[str, str]] = {}
    CHECKS: ClassVar[Mapping[str, Callable[..., None]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:  # noqa: ANN401 - the data model's
        super().__init_subclass__(**options)
        if Conformance in cls.__bases__:
            names = [name for name in dir(cls) if name.startswith("test_")]
            cls.CHECKS = {name: getattr(cls, name) for name in names}
            return
        cls._refuse_replaced_checks()
        for name, check in cls.CHECKS.items():
            setattr(cls, name, cls._marked(name, check))

    @classmethod
    def _refuse_replaced_checks(cls) -> None:
        for name, check in cls.CHECKS.items():
            if getattr(getattr(cls, name), "__code__", None) is not check.__code__:
                message = (
                    f"{cls.__name__} replaces the check {name}; name it in EXPECTED_FAILURES with "
                    "the reason instead"
                )
                raise TypeError(message)
        for name, reason in cls.EXPECTED_FAILURES.items():
            if name not in cls.CHECKS:
                message = (
                    f"{cls.__name__}.EXPECTED_FAILURES names {name!r}, which is no check of "
                    f"{cls.__mro__[1].__name__}"
                )
                raise TypeError(message)
            if not reason.strip():
                message = f"{cls.__name__}.EXPECTED_FAILURES has no reason for {name}"
                raise TypeError(message)

    @classmethod
    def _marked(cls, name: str, check: Callable[..., None]) -> Callable[..., None]:
        reason = cls.EXPECTED_FAILURES.get(name)
        if reason is None:
            return check
        assert isinstance(check, FunctionType)
        copy = FunctionType(check.__code__, check.__globals__, name, check.__defaults__)
        copy.__dict__.update(check.__dict__)
        copy.__doc__ = check.__doc__
        marked: Callable[..., None] = pytest.mark.xfail(strict=True, reason=reason)(copy)
        return marked

    @pytest.fixture(autouse=True)
    def _skip_undeclared(self, request: pytest.FixtureRequest) -> None:
        needed: Capability = getattr(request.function, NEEDS, Capability.NONE)
        missing = needed & ~self.capabilities
        if missing:
            pytest.skip(f"capability {', '.join(missing.names())} is not declared")
