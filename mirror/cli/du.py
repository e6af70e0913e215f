"""`mirror du`: what the cache takes, by upstream or repository, and how full the store is."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import caution_of, opened
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, busy, counted, show, show_json
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from mirror.store.extent import Extent
    from mirror.store.store import Store


_BLOCK = 512  # bytes that st_blocks counts in (stat(2))


class Group(StrEnum):
    """What is summed up."""

    UPSTREAM = "upstream"
    REPOSITORY = "repository"


@dataclass(frozen=True, slots=True)
class Line:
    """One upstream or repository; an empty name stands for what none is known to hold."""

    name: str
    images: int
    extent: Extent


@dataclass(frozen=True, slots=True)
class Fill:
    """How full the store is. All in bytes on disk."""

    used: int
    cap: int  # what counts: storage.max_size, or less where the disk is nearly full
    free: int  # on the file system
    content: int
    index: int  # and its journal
    directories: int
    unfinished: int
    aside: int  # damaged content that was put away
    pinned: int
    images: int
    files: int

    @property
    def rest(self) -> int:
        """What counts as used and is none of these: reserved for what is coming, or not looked through yet."""
        known = self.content + self.index + self.directories + self.unfinished + self.aside
        return max(0, self.used - known)


def du(
    by: Annotated[Group, typer.Option("--by", help="By upstream or by repository.")] = Group.UPSTREAM,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the cache takes on disk. OWN is what would be free without it, SHARED is needed by others too."""
    with opened(config, as_json=json) as (_, store):
        with busy("reading the index", hidden=json):
            lines, fill = _read(store, by), _fill(store)
        caution_of(store)
    lines.sort(key=lambda line: (-line.extent.size, line.name))
    if json:
        show_json(groups=[_report(line, by) for line in lines], store=_report_fill(fill))
        return
    columns = [Column(by.upper()), *(Column(title, right=True) for title in ("IMAGES", "SIZE", "OWN", "SHARED"))]
    show(columns, [_row(line) for line in lines])
    typer.echo("\n" + "\n".join(_told(fill)))


def _read(store: Store, by: Group) -> list[Line]:
    from mirror.store.inventory import Inventory, grouped  # noqa: PLC0415  # not needed to print help

    with Inventory(store.layout) as inventory:
        roots = [*inventory.images(()), *inventory.loose()]
        groups = grouped(roots, by_upstream=by is Group.UPSTREAM)
        return [
            Line(name, sum(root.media_type is not None for root in members), extent)
            for (name, members), extent in zip(groups.items(), inventory.extents([*groups.values()]), strict=True)
        ]


def _fill(store: Store) -> Fill:
    totals, layout = store.graph.totals(), store.layout
    disk = os.statvfs(layout.root)
    return Fill(
        used=store.room.used,
        cap=store.room.cap,
        free=disk.f_bavail * disk.f_frsize,
        content=totals.taken,
        index=_blocks(layout.facts()),
        directories=_blocks(layout.directories()),
        unfinished=_blocks(layout.fills.iterdir()),
        aside=_blocks(layout.aside.iterdir()),
        pinned=totals.pinned_taken,
        images=totals.images,
        files=totals.contents,
    )


def _blocks(paths: Iterable[Path]) -> int:
    """Return what files take on disk; nothing for those that are not, or no longer, there."""
    taken = 0
    for path in paths:
        with suppress(FileNotFoundError):
            taken += path.stat(follow_symlinks=False).st_blocks * _BLOCK
    return taken


def _row(line: Line) -> tuple[str, ...]:
    figures = (line.extent.size, line.extent.own, line.extent.size - line.extent.own)
    return (line.name or "(of none)", str(line.images), *map(show_bytes, figures))


def _told(fill: Fill) -> list[str]:
    share = f" ({fill.used / fill.cap:.0%})" if fill.cap > 0 else ""
    whole = f"{show_bytes(fill.used)} used of {show_bytes(fill.cap)}{share}"
    content = f"{show_bytes(fill.content)} in {counted(fill.files, 'file')} of {counted(fill.images, 'image')}"
    besides = {
        "index and journal": fill.index,
        "directories": fill.directories,
        "unfinished": fill.unfinished,
        "put aside": fill.aside,
        "reserved or unknown": fill.rest,
    }
    return [
        f"store    {whole}; {show_bytes(fill.free)} free on the file system",
        f"content  {content}, {show_bytes(fill.pinned)} of it pinned",
        "besides  " + ", ".join(f"{name} {show_bytes(size)}" for name, size in besides.items()),
    ]


def _report(line: Line, by: Group) -> dict[str, Any]:
    return {
        str(by): line.name or None,
        "images": line.images,
        "size_bytes": line.extent.size,
        "own_bytes": line.extent.own,
        "shared_bytes": line.extent.size - line.extent.own,
        "files": line.extent.files,
    }


def _report_fill(fill: Fill) -> dict[str, int]:
    return {
        "used_bytes": fill.used,
        "capacity_bytes": fill.cap,
        "free_bytes": fill.free,
        "content_bytes": fill.content,
        "pinned_bytes": fill.pinned,
        "index_bytes": fill.index,
        "directories_bytes": fill.directories,
        "unfinished_bytes": fill.unfinished,
        "aside_bytes": fill.aside,
        "other_bytes": fill.rest,
        "images": fill.images,
        "files": fill.files,
    }
