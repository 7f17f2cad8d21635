"""What ends the quickstart early."""

from __future__ import annotations


class Problem(Exception):  # noqa: N818 - it is what a person is told, and mostly not an error of the code
    """Something of this machine is in the way; the message is one sentence that says what to do."""
