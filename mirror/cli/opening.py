"""The store as commands open it: that of a mirror, beside which they may run; a new one only where that is meant."""

from __future__ import annotations

import os
import pwd
import resource
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mirror.config import Config
    from mirror.oci.pattern import ImagePattern
    from mirror.store.store import Store

IMAGES = (
    "As nginx, nginx:1.25, 'quay.io/org/*', '*:v1.*', NAME@DIGEST or a DIGEST (12 digits are enough). * is anything "
    "within a component or tag, ** anything at all; without a host it is docker.io, without a tag all tags."
)
PatternsArgument = Annotated[list[str] | None, typer.Argument(metavar="IMAGE", help=IMAGES)]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


@contextmanager
def opened(path: Path | None, *, as_json: bool) -> Iterator[tuple[Config, Store]]:
    """Open the store that the configuration at `path` names; raise `MirrorError` where there is none."""
    settings = configuration.load(path, os.environ)
    with opened_by(settings, as_json=as_json) as store:
        yield settings, store


@contextmanager
def opened_by(settings: Config, *, as_json: bool, make: bool = False) -> Iterator[Store]:
    """Open the store that `settings` name. Where there is none: make one and say so, or raise `MirrorError`.

    Meanwhile root is the user whom the store belongs to, and itself again behind that: a file beside the store is for
    whoever called. One who does not exist yet belongs to whom the directory belongs that it is made in.
    """
    root = settings.storage.path
    try:
        owner = (root / "VERSION").stat()
    except FileNotFoundError:
        if not make:
            raise MirrorError(
                f"{root.absolute()} holds no store; name the mirror's configuration by --config, or start the mirror "
                "once"
            ) from None
        owner = _nearest(root)
        caution(
            f"{root.absolute()} holds no store yet: it is made now, for the user {_name(owner)}, as whom the "
            "mirror has to run"
        )

    from mirror import log  # noqa: PLC0415  # a mistake in the configuration is told at once
    from mirror.store.store import Store  # noqa: PLC0415  # the same

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an image of many files is locked as a whole
    log.setup("warning", "json" if as_json else "auto")
    with _being(owner.st_uid, owner.st_gid):
        store = Store.open(settings.storage)
        try:
            yield store
        finally:
            store.close()


def parsed(texts: Sequence[str] | None) -> list[ImagePattern]:
    """Read arguments that name images; raise `typer.BadParameter` with what would be right."""
    from mirror.oci.pattern import ImagePattern  # noqa: PLC0415  # not needed to print help

    patterns = []
    for text in texts or ():
        try:
            patterns.append(ImagePattern.parse(text))
        except MirrorError as error:
            raise typer.BadParameter(str(error)) from None
    return patterns


def caution(text: str) -> None:
    """Tell what is to be known beside the result."""
    typer.echo(f"note: {text}", err=True)


def caution_of(store: Store) -> None:
    """Tell where what was read may not be all that there is."""
    if not store.counted:
        caution("a mirror is still to look through the disk, as after a crash; until then some of this may be wrong")


@contextmanager
def _being(user: int, group: int) -> Iterator[None]:
    """Work as the store's owner where root calls: files that belong to root would stop a mirror that does not.

    The way back stays open. It is not a jail, and programs that are run meanwhile have no way back (execve(2)).
    """
    if os.geteuid() != 0 or user == 0:
        yield
        return
    groups, own_group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setresgid(group, group, own_group)
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(own_group, own_group, own_group)
        os.setgroups(groups)


def _nearest(path: Path) -> os.stat_result:
    """Return whom the directory at `path` belongs to, or the one that it would be made in."""
    for directory in (path, *path.absolute().parents):
        with suppress(FileNotFoundError):
            return directory.stat()
    raise AssertionError  # there is always a root directory


def _name(owner: os.stat_result) -> str:
    """Return the name of whoever makes the store: the owner where root calls, else the caller."""
    user = owner.st_uid if os.geteuid() == 0 else os.geteuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:  # a container's user need not have a name
        return str(user)
