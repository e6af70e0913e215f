"""`Via` (RFC 9110 §7.6.3): the mirrors that a request has come through, so that a circle of them is seen at once.

Each mirror names itself to whom it asks. It also passes on who was named to it: else two mirrors that are each other's
upstream would not know their own requests again, and would wait for one another.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 16  # mirrors in a row; nobody has as many, and a stranger's header is not passed on at any length

_NAME = re.compile(r"registry-mirror-([0-9a-f]{16})(?![0-9a-f])")
# What is asked of upstreams on behalf of a request is asked in tasks that inherit its context.
_passed: ContextVar[tuple[str, ...]] = ContextVar("passed", default=())


def circles(instance: str, headers: Iterable[str]) -> bool:
    """Say whether a request with these `Via` headers has been at the mirror `instance` before, and note its way.

    A way that is too long counts as a circle.
    """
    way = tuple(name for header in headers for name in _NAME.findall(header))
    _passed.set(way[:MOST])
    return instance in way or len(way) > MOST


def value(instance: str) -> str:
    """Return the header for what is asked on behalf of the request that is being answered, if one is."""
    return ", ".join(f"1.1 registry-mirror-{name}" for name in (*_passed.get(), instance))
