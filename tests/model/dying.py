"""A process that kills itself, as `kill -9` would, amid one of the calls by which it changes the disk.

Between two such calls nothing happens that another process could see, so that these are all the moments there are,
but for those within the database.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOMENTS = ("before", "amid", "after")
_WRITES = ("write", "pwrite")  # of which a part may be done
_VAIN = ("unlink", "remove", "rmdir")  # without what they take away they change nothing
_CALLS = (
    *("ftruncate", "truncate", "fsync", "fdatasync", "posix_fallocate", "rename", "replace", "link", "mkdir"),
    *("chmod", "fchmod"),
    *_VAIN,
)


class Death(NamedTuple):
    """At which of the calls, from 1 on, and at what `MOMENTS` of it. 0: never, only count them."""

    call: int
    moment: str = "before"


def prepare(death: Death, count: Callable[[int], None]) -> None:
    """Have this process die so; `count` hears how many calls there were."""
    calls = 0
    counting = threading.Lock()

    def due() -> bool:
        nonlocal calls
        with counting:
            calls += 1
            count(calls)
            return calls == death.call

    def dying(call: Callable[..., Any], *, writes: bool, vain: bool) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if (vain and not os.path.lexists(arguments[0])) or not due():
                return call(*arguments, **named)
            if death.moment == "amid" and writes:
                fd, data, *rest = arguments
                call(fd, memoryview(data).cast("B")[: len(data) // 2], *rest)
            elif death.moment == "after":
                with suppress(OSError):  # a call in vain is a moment like any other
                    call(*arguments, **named)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # another thread runs the signal
            return None

        return called

    for name in (*_WRITES, *_CALLS):
        setattr(os, name, dying(getattr(os, name), writes=name in _WRITES, vain=name in _VAIN))
