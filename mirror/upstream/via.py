"""`Via` (RFC 9110 §7.6.3): the mirrors that a request has come through, so that a circle of them is seen at once.

Each mirror names itself to whom it asks. It also passes on who was named to it: else two mirrors that are each other's
upstream would not know their own requests again, and would wait for one another. In its answers to other mirrors it
names itself too: by that two are seen that ask each other for the same at the same moment, each for its own client.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mirror.oci.name import Repository

MOST = 16  # mirrors in a row; nobody has as many, and a stranger's header is not passed on at any length

_NAME = re.compile(r"registry-mirror-([0-9a-f]{16})(?![0-9a-f])")
# What is asked of upstreams on behalf of a request is asked in tasks that inherit its context.
_passed: ContextVar[tuple[str, ...]] = ContextVar("passed", default=())


def named(headers: Iterable[str]) -> tuple[str, ...]:
    """Return the mirrors that these `Via` headers name, in order."""
    return tuple(name for header in headers for name in _NAME.findall(header))


def circles(instance: str, headers: Iterable[str]) -> bool:
    """Say whether a request with these `Via` headers has been at the mirror `instance` before, and note its way.

    A way that is too long counts as a circle.
    """
    way = named(headers)
    _passed.set(way[:MOST])
    return instance in way or len(way) > MOST


def through() -> bool:
    """Say whether the request that is being answered has come through a mirror."""
    return bool(_passed.get())


def value(instance: str) -> str:
    """Return the header for what is asked on behalf of the request that is being answered, if one is."""
    return ", ".join(f"1.1 registry-mirror-{name}" for name in (*_passed.get(), instance))


class Crossings:
    """What this mirror is asking other mirrors for right now. One of two that ask each other must not wait."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._asked: Counter[tuple[str, Repository, str]] = Counter()  # the mirror, and what it is asked for

    @contextmanager
    def asking(self, mirror: str | None, repository: Repository, reference: str) -> Iterator[None]:
        """Hold while `mirror` is asked, and has not begun to answer; None: it is none, or its name is not known."""
        if mirror is None:
            yield
            return
        key = (mirror, repository, reference)
        self._asked[key] += 1
        try:
            yield
        finally:
            self._asked[key] -= 1
            if not self._asked[key]:
                del self._asked[key]

    def crossed(self, repository: Repository, reference: str) -> bool:
        """Say whether the request that is being answered comes from a mirror that is asked for the same just now.

        Only one of the two is told so, whoever is named first: the other one waits, and gets it from that one.
        """
        if not self._asked:
            return False
        return any(name > self._instance and (name, repository, reference) in self._asked for name in _passed.get())
