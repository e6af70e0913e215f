"""What a refusal of the disk means to the person who runs the mirror."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from mirror.errors import NoSpace, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ESTALE})
_BUSY = frozenset({errno.EMFILE, errno.ENFILE})


def refusal(root: Path, error: OSError) -> StoreError:
    """Return what to raise for `error`, which the disk that holds the store `root` answered with."""
    if error.errno in _FULL:
        return NoSpace(f"the disk that holds {root} is full; free some of it")
    if error.errno == errno.EROFS:
        return StoreError(
            f"the store {root} cannot be written: its disk is mounted read-only, perhaps after a fault that the "
            "kernel's log tells of; mount it writable again"
        )
    if error.errno in _GONE:
        return StoreError(
            f"{error.filename or root} is not there: the store {root} was unmounted or removed under the running "
            "mirror; bring the disk back, then restart the mirror"
        )
    if error.errno in _BUSY:
        return StoreError(
            f"the store {root} cannot be used: {error}; raise the limit of open files (ulimit -n, LimitNOFILE= of a "
            "systemd unit)"
        )
    return StoreError(f"the store {root} cannot be used: {error}; see who owns it, and the disk's health")


@contextlib.contextmanager
def refusing(root: Path) -> Iterator[None]:
    """Raise every `OSError` as what `refusal` makes of it."""
    try:
        yield
    except OSError as error:
        raise refusal(root, error) from error
