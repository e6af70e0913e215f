"""A mirror that is stopped for a moment, with all its processes, so that what is on disk is one state."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def family(pid: int) -> list[int]:
    """Return a process and its children's children, the elders first."""
    found = [pid]
    for one in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            children = Path(f"/proc/{one}/task/{one}/children").read_text()
            found += [int(child) for child in children.split()]
    return found


@contextmanager
def frozen(pid: int) -> Iterator[list[int]]:
    """Stop a process and its family until the block is left."""
    stopped: list[int] = []
    try:
        for one in family(pid):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
                stopped.append(one)
        yield stopped
    finally:
        for one in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


def taken(root: Path, processes: list[int]) -> int:
    """Return the bytes that a directory takes, as du(1) counts, and what `processes` hold open that has no name."""
    blocks: dict[int, int] = {}  # by inode: what is being renamed counts once
    for directory, _, names in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in names)):  # noqa: PTH118 - quick
            with suppress(FileNotFoundError):
                status = os.lstat(path)
                blocks[status.st_ino] = status.st_blocks
    for process in processes:
        blocks.update(_unlinked(root, process))
    return 512 * sum(blocks.values())


def _unlinked(root: Path, process: int) -> Iterator[tuple[int, int]]:
    with suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if descriptor.readlink().is_relative_to(root):
                    status = descriptor.stat()
                    if not status.st_nlink:
                        yield status.st_ino, status.st_blocks
