"""Where `mirror export` writes to: a file, parts of one, a directory, standard output."""

from __future__ import annotations

import glob
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.config.units import Size, show_bytes
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from mirror.airgap.bundle.forms import Form

STDOUT = "-"
_ZSTD = (".zst", ".zstd", ".tzst")
_OTHERS = {".gz": "gzip", ".tgz": "gzip", ".xz": "xz", ".bz2": "bzip2", ".lz4": "lz4"}
_LEAST_PART = 1024 * 1024  # bytes

OutOption = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="A file, as june.tar or june.tar.zst; a directory, where it ends in / or is one; - is standard output.",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", metavar="SIZE", help="Write parts of this size, as 4GiB, with a checksum for each."),
]
ZstdOption = Annotated[bool, typer.Option("--zstd", help="Compress, also where OUT does not end in .zst.")]


@dataclass(frozen=True, slots=True)
class Output:
    """Where to, and how: to `path`, else to the device or pipe `device`, else to standard output. `part` in bytes."""

    path: Path | None
    device: Path | None = None
    directory: bool = False
    zstd: bool = False
    part: int | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        return str(self.path or self.device or "standard output")

    def open(self, size: int) -> Form:
        """Begin to write an archive of `size` bytes; raise `MirrorError` where there is no room, or no leave."""
        from mirror.airgap.bundle.forms import Archive, Directory  # noqa: PLC0415  # not needed to print help
        from mirror.airgap.bundle.parts import PartsWriter  # noqa: PLC0415  # the same
        from mirror.airgap.bundle.targets import Compressed, FileTarget, StreamTarget, Target  # noqa: PLC0415

        path = self.path
        if path is None:
            stream: Target = StreamTarget(self._stream(), self.name)
            return Archive(Compressed(stream) if self.zstd else stream)
        if self.directory:
            form: Form = Directory(path)
            freed = 0
        else:
            target: Target = FileTarget(path) if self.part is None else PartsWriter(path, self.part)
            form = Archive(Compressed(target) if self.zstd else target)
            freed = sum(left.stat().st_size for left in path.parent.glob(f"{glob.escape(path.name)}.???.part"))
        if not self.zstd:
            try:
                self._check_room(path, size - freed)
            except BaseException:
                form.close()
                raise
        return form

    def _stream(self) -> int:
        if self.device is None:
            sys.stdout.flush()
            return sys.stdout.fileno()
        return os.open(self.device, os.O_WRONLY | os.O_CLOEXEC)  # until the process ends

    def _check_room(self, path: Path, size: int) -> None:
        disk = os.statvfs(path.resolve().parent)
        free = disk.f_bavail * disk.f_frsize
        if size > free:
            raise MirrorError(
                f"{path} takes {show_bytes(size)}, and its disk has {show_bytes(free)} left: free some of it, or name "
                "another one"
            )


def output(out: str, *, zstd: bool, split: str | None) -> Output:
    """Read `--output` and what goes with it; raise `typer.BadParameter` with what would be right."""
    part = _part(split)
    if out == STDOUT:
        if part is not None:
            raise typer.BadParameter("--split makes files, and -o - is standard output; name a file")
        if sys.stdout.isatty():
            raise typer.BadParameter("standard output is a terminal; name a file by -o, or send it to a program")
        return Output(None, zstd=zstd)
    path = Path(out)
    if not path.name or not path.parent.is_dir():
        raise typer.BadParameter(f"-o {out}: {path.parent} is no directory; make it first")
    if out.endswith("/") or path.is_dir():
        if part is not None or zstd:
            raise typer.BadParameter(f"-o {out} is a directory, which is neither compressed nor split; name a file")
        return _directory(path)
    if path.exists() and not path.is_file():
        if part is not None:
            raise typer.BadParameter(f"-o {out} is a device or a pipe, and --split makes files; name a file")
        return Output(None, device=path, zstd=zstd)
    if other := _OTHERS.get(path.suffix):
        raise typer.BadParameter(
            f"-o {out}: a bundle is not packed by {other}; name it {_plain(path)}.tar.zst, or .tar"
        )
    return Output(path, zstd=zstd or path.suffix in _ZSTD, part=part)


def _plain(path: Path) -> str:
    """Return the name without what says how it is packed: `june` of `june.tar.gz`."""
    return path.stem.removesuffix(".tar")


def _directory(path: Path) -> Output:
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"-o {path}/ is a file; name a new directory")
    if path.is_dir():
        from mirror.airgap.bundle.layout import FILES  # noqa: PLC0415  # not needed to print help
        from mirror.airgap.bundle.manifest import NAME, SIGNATURE  # noqa: PLC0415  # the same

        # It is exchanged for a new one as a whole.
        if path.resolve().is_mount():
            raise typer.BadParameter(
                f"-o {path}/ is where a disk is mounted; name a directory on it, as {path}/bundle/"
            )
        names = {one.name for one in path.iterdir()}
        others = sorted(names - {NAME, SIGNATURE, *FILES, "blobs"} if NAME in names else names)
        if others:
            raise typer.BadParameter(
                f"-o {path}/ holds {others[0]}, which is no part of a bundle; name a new or an empty directory"
            )
    return Output(path, directory=True)


def _part(split: str | None) -> int | None:
    if split is None:
        return None
    try:
        size = Size.parse(split).bytes
    except ValueError as error:
        raise typer.BadParameter(f"--split {split} {error}") from None
    if size is None or size < _LEAST_PART:
        raise typer.BadParameter(f"--split {split} is too little for a part; write for example 4GiB")
    return size
