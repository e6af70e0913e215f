"""The flow tests' mirror, for what must agree with a running one."""

from tests.flow.conftest import clock, start, upstream

__all__ = ["clock", "start", "upstream"]
