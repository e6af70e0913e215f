"""The store as commands open it: that of a mirror, beside which they may run, and never a new one."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
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
    root = settings.storage.path
    try:
        owner = (root / "VERSION").stat()
    except FileNotFoundError:
        raise MirrorError(
            f"{root.absolute()} holds no store; name the mirror's configuration by --config, or start the mirror once"
        ) from None
    _become(owner.st_uid, owner.st_gid)

    from mirror import log  # noqa: PLC0415  # a mistake in the configuration is told at once
    from mirror.store.store import Store  # noqa: PLC0415  # the same

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # an image of many files is locked as a whole
    log.setup("warning", "json" if as_json else "auto")
    store = Store.open(settings.storage)
    try:
        yield settings, store
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


def _become(user: int, group: int) -> None:
    """Work as the store's owner where root calls: files that belong to root would stop a mirror that does not."""
    if os.geteuid() != 0 or user == 0:
        return
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
