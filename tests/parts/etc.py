"""Files laid over this machine's `/etc`, for one program alone: what is there lies where the program looks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_READ = 'mount -t overlay -o "lowerdir=$0/etc:/etc" etc /etc && exec "$@"'
_WRITE = (
    'mkdir -p "$0/work" && mount -t overlay -o "lowerdir=/etc,upperdir=$0/etc,workdir=$0/work" etc /etc && exec "$@"'
)


def laid_over(root: Path | None, *, written: bool = False) -> list[str]:
    """Return what stands before a command that shall find `root/etc` over `/etc`; nothing where there is no `root`.

    `written`: what the command writes to `/etc` goes to `root/etc` (only one command at a time may do that).
    """
    if root is None:
        return []
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", _WRITE if written else _READ, str(root)]
