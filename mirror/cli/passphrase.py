"""The passphrase of a key: from a file, or asked for on the terminal, and only where the key has one."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Where the key's passphrase is; else it is asked for on the terminal."
    ),
]
_LARGEST = 64 * 1024  # bytes


def asking(key_file: Path, passphrase_file: Path | None) -> Callable[[], bytes]:
    """Return what gives the passphrase of `key_file` when it is called; it raises `ConfigError` where there is none."""

    def ask() -> bytes:
        if passphrase_file is not None:
            return _read(passphrase_file)
        try:
            with Path("/dev/tty").open("rb"):
                pass
        except OSError:
            raise ConfigError(
                [f"{key_file} is protected by a passphrase, and there is no terminal to ask on; use --passphrase-file"]
            ) from None
        return getpass.getpass(f"Passphrase of {key_file}: ").encode()

    return ask


def _read(path: Path) -> bytes:
    """Return the first line: an editor adds a line end that is no part of a passphrase."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST).split(b"\n")[0].removesuffix(b"\r")
    except OSError as error:
        raise ConfigError([f"the passphrase file {path} cannot be read: {error.strerror}"]) from None
