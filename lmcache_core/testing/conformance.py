"""What every kit does: checks that stay as they are, and honest exceptions."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, FunctionType
from typing import Any, ClassVar, TypeVar

import pytest

from lmcache_core.api import Capability

CheckT = TypeVar("CheckT", bound=Callable[..., None])

NEEDS = "__lmcache_needs__"

CHECK_SECONDS = 180.0
"""What hangs for so long has failed; far more than any check takes."""


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

    @pytest.fixture(autouse=True)
    def _end_what_hangs(self) -> Iterator[None]:
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or signal.getitimer(signal.ITIMER_REAL)[0]:
            yield  # somebody else's timer ends it
            return

        def end(_signal: int, _frame: FrameType | None) -> None:
            pytest.fail(f"the check did not end within {CHECK_SECONDS:g} s")

        before = signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, CHECK_SECONDS)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
