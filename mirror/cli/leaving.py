"""The files that a command leaves behind, beside what it prints: each is whole or as it was before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import typer

from mirror.errors import MirrorError

_MODE = 0o666  # less the umask, as of any file that a person makes


def writable(option: str, path: Path | None) -> None:
    """Raise `typer.BadParameter` where `path` can hardly be written when the work is done."""
    if path is None:
        return
    target = path.resolve()
    if target.is_dir():
        raise typer.BadParameter(f"{option} {path} is a directory; name a file")
    if not target.parent.is_dir():
        raise typer.BadParameter(f"{option} {path}: {target.parent} is no directory; make it first")
    if not os.access(target.parent if not target.exists() or target.is_file() else target, os.W_OK):
        raise typer.BadParameter(f"{option} {path} cannot be written; name another file")


def leave(path: Path, text: str) -> None:
    """Write a file in one step: what is there is replaced by what is new, or stays. Raise `MirrorError`.

    Where a link is, what it leads to is replaced; what is no file (a pipe, a terminal) is written to.
    """
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_text(text, encoding="utf-8")
        else:
            _replace(target, text)
    except OSError as error:
        raise MirrorError(f"{path} cannot be written: {error.strerror or error}") from None


def _replace(target: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, prefix=".mirror-", delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.fchmod(new.fileno(), _mode(target))
            os.fsync(new.fileno())
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise


def _mode(target: Path) -> int:
    """Return the mode of the file that is there, or that a new one has."""
    if target.exists():
        return target.stat().st_mode & 0o7777
    umask = os.umask(0o022)
    os.umask(umask)
    return _MODE & ~umask
