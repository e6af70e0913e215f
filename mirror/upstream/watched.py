"""Files whose content is read again when they change: secrets and certificates are rotated under a running mirror."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")
_Stamps = tuple[tuple[int, int, int] | None, ...]

INTERVAL = 1.0  # seconds; a file is looked at no more often, and only when somebody needs what is in it

_PATIENCE = 1.0  # seconds that a request waits for a look at a file; a disk that hangs does not hold it up
_TICK = 2.0  # seconds; a file that is changed twice within the clock's tick may look the same

_log = structlog.get_logger(__name__)


class Watched(Generic[_T]):
    """What `load` makes of files, made again when one of them changes; the last good one while it cannot be made.

    `load` runs in a thread and raises `OSError` or `ValueError`; its text, which names no secret, is logged, once. The
    first time it runs here and now, and what it raises is the caller's.
    """

    def __init__(self, paths: tuple[Path, ...], load: Callable[[], _T]) -> None:
        self._paths = paths
        self._load = load
        stamps = _stamps(paths)
        self._value = load()
        self._stamps = () if _is_racy(stamps) else stamps
        self._complaint: str | None = None
        self._looked = time.monotonic()
        self._look: asyncio.Task[None] | None = None

    @property
    def latest(self) -> _T:
        """The value as it was when the files were looked at last."""
        return self._value

    async def current(self, *, now: bool = False) -> _T:
        """Return the value; look at the files first if that is due, or `now` in any case."""
        if now or self._look is not None or time.monotonic() - self._looked >= INTERVAL:
            if self._look is None:
                self._look = asyncio.create_task(self._look_again(), name="watched files")
            await asyncio.wait([self._look], timeout=_PATIENCE)
        return self._value

    async def _look_again(self) -> None:
        try:
            await asyncio.to_thread(self._reload)
        finally:
            self._looked = time.monotonic()
            self._look = None

    def _reload(self) -> None:
        stamps = _stamps(self._paths)
        if stamps == self._stamps:
            return
        try:
            self._value = self._load()
        except (OSError, ValueError) as error:
            why = error.strerror or "unreadable" if isinstance(error, OSError) else str(error)
            if why != self._complaint:
                self._complaint = why
                _log.error(
                    "a changed file cannot be used, and what it held before stays in use; put it right",
                    files=[str(path) for path in self._paths],
                    cause=why,
                )
        else:
            if self._complaint is not None:
                _log.info("the file can be used again", files=[str(path) for path in self._paths])
            self._complaint = None
        self._stamps = () if _is_racy(stamps) else stamps


def _stamps(paths: tuple[Path, ...]) -> _Stamps:
    """Return what changes when a file does, following links (Kubernetes swaps those)."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _is_racy(stamps: _Stamps) -> bool:
    newest = max((stamp[0] for stamp in stamps if stamp is not None), default=0)
    return abs(time.time() - newest / 1e9) < _TICK
