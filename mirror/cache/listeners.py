"""Who wants to hear that something has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)


class Listeners:
    """Calls to make once, whatever becomes of the others."""

    def __init__(self) -> None:
        self._all: list[Callable[[], None]] = []

    def add(self, hear: Callable[[], None]) -> None:
        """Call `hear` when the time comes."""
        self._all.append(hear)

    def tell(self) -> None:
        """The time has come."""
        for hear in self._all:
            try:
                hear()
            except Exception:  # the others must hear it all the same
                log.exception("a listener failed")
