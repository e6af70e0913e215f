"""How the C library keeps the memory that pieces of content pass through.

By default every piece of some hundred KiB is mapped afresh, and given back at once; on a virtual machine the page
faults of that cost a tenth of a fill's time. So memory is kept while fills run, and given back when the last has ended.
"""

from __future__ import annotations

import ctypes

# glibc's malloc.h. Another C library has neither function, and its own ways.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT = 32 * 1024 * 1024  # bytes; the most that glibc takes as M_MMAP_THRESHOLD on 64 bits
_ARENAS = 2

_libc = ctypes.CDLL(None)


def keep() -> None:
    """Keep up to 32 MiB of freed memory for the next piece."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, _KEPT)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        _libc.mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return what is free to the system. It takes some milliseconds: call it off the loop."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
