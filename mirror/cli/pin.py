"""`mirror pin` and `mirror unpin`: what stays, whatever room is needed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import DryRunOption, PatternsArgument, caution, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, counted, show, show_age, show_json, show_time
from mirror.config.units import show_bytes
from mirror.store.changes import Pinned, Unpinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.config import StorageConfig
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.oci.pattern import ImagePattern
    from mirror.store.inventory import Inventory
    from mirror.store.store import Store

_COLUMNS = (Column("NAME"), Column("DIGEST"), Column("SIZE", right=True), Column("SINCE"))


@dataclass(frozen=True, slots=True)
class Mark:
    """A pin that there is, or is to be. `digest` is what it holds, None where that is not here; `size` in bytes."""

    repository: Repository
    reference: str  # a tag, or a digest as text
    digest: Digest | None
    size: int
    at: float
    new: bool

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.reference else ':'}{self.reference}"


def pin(
    images: PatternsArgument = None,
    list_: Annotated[bool, typer.Option("--list", help="List what is pinned.")] = False,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Keep images from eviction. A pinned tag stays pinned when it moves to another image."""
    patterns = parsed(images)
    if list_ == bool(patterns):
        raise typer.BadParameter("name the images to pin, or --list to see what is pinned")
    with opened(config, as_json=json) as (settings, store):
        if list_:
            _tell(_pins(store, ()), store, settings.storage, as_json=json)
            return
        marks, unmatched = _matching(store, patterns)
        new = [Pinned(mark.repository, mark.reference, mark.at) for mark in marks if mark.new]
        if new and not dry_run:
            asyncio.run(store.index.apply(*new))
        if marks or json:
            _tell(marks, store, settings.storage, as_json=json, done="would be pinned" if dry_run else "pinned")
    for pattern in unmatched:
        hint = f"pull it through the mirror first, then mirror pin {pattern}" if pattern.exact else "see mirror ls"
        typer.echo(f"nothing here matches {pattern}; {hint}", err=True)
    raise typer.Exit(1 if unmatched else 0)


def unpin(
    images: PatternsArgument = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Let images go again when their room is needed."""
    patterns = parsed(images)
    if not patterns:
        raise typer.BadParameter("name the images to unpin; mirror pin --list says which ones are pinned")
    with opened(config, as_json=json) as (settings, store):
        marks = _pins(store, patterns)
        if marks and not dry_run:
            asyncio.run(store.index.apply(*(Unpinned(mark.repository, mark.reference) for mark in marks)))
        if marks or json:
            _tell(marks, store, settings.storage, as_json=json, done="would be unpinned" if dry_run else "unpinned")
    unmatched = [pattern for pattern in patterns if not any(_means(pattern, mark) for mark in marks)]
    for pattern in unmatched:
        typer.echo(f"nothing that is pinned matches {pattern}; see mirror pin --list", err=True)
    raise typer.Exit(1 if unmatched else 0)


def _matching(store: Store, patterns: Sequence[ImagePattern]) -> tuple[list[Mark], list[ImagePattern]]:
    """Return the pins that patterns come to, those that are there already too, and the patterns that match nothing."""
    from mirror.store.inventory import Inventory, matches, meant  # noqa: PLC0415  # not needed to print help

    now = time.time()
    with Inventory(store.layout) as inventory:
        roots = inventory.images(patterns)
        extents = inventory.extents([[root] for root in roots])
        pinned = {(pin.repository, pin.reference): pin.at for pin in inventory.pins()}
        marks: dict[tuple[Repository, str], Mark] = {}
        for root, extent in zip(roots, extents, strict=True):
            for pattern in patterns:
                for name in root.names:
                    if not meant(pattern, root, name):
                        continue
                    by_digest = name.tag is None or pattern.digest is not None
                    key = name.repository, str(root.digest) if by_digest else str(name.tag)
                    marks[key] = Mark(*key, root.digest, extent.size, pinned.get(key, now), key not in pinned)
        unmatched = [pattern for pattern in patterns if not any(matches(pattern, root) for root in roots)]
    return sorted(marks.values(), key=str), unmatched


def _pins(store: Store, patterns: Sequence[ImagePattern]) -> list[Mark]:
    """Return the pins that any pattern means; none: all pins."""
    from mirror.store.inventory import Inventory  # noqa: PLC0415  # not needed to print help

    with Inventory(store.layout) as inventory:
        marks = [
            Mark(pin.repository, pin.reference, pin.digest, _size(inventory, pin.digest), pin.at, new=False)
            for pin in inventory.pins()
        ]
    return [mark for mark in marks if not patterns or any(_means(pattern, mark) for pattern in patterns)]


def _means(pattern: ImagePattern, mark: Mark) -> bool:
    if not pattern.has_repository(mark.repository):
        return False
    if pattern.digest is not None:
        return mark.digest is not None and pattern.has_digest(mark.digest)
    return pattern.has_untagged if ":" in mark.reference else pattern.has_tag(mark.reference)


def _size(inventory: Inventory, digest: Digest | None) -> int:
    node = inventory.node(digest) if digest is not None else None
    return inventory.nearby.extents([[node]])[0].size if node is not None else 0


def _tell(marks: Sequence[Mark], store: Store, limits: StorageConfig, *, as_json: bool, done: str = "pinned") -> None:
    """Print the pins, and what all pins together take of the store."""
    taken, cap = store.graph.totals().pinned_taken, store.room.cap
    if as_json:
        show_json(pins=[_report(mark) for mark in marks], pinned_bytes=taken, capacity_bytes=cap)
    else:
        rows = [(str(mark), _short(mark), show_bytes(mark.size), _since(mark)) for mark in marks]
        if rows:
            show(_COLUMNS, rows)
            typer.echo("")
        typer.echo(
            f"{counted(len(marks), 'name')} {done}; all pins together keep {show_bytes(taken)} of the "
            f"{show_bytes(cap)} that the store may take"
        )
    if taken > cap * limits.low_water:
        caution(
            "pinned images take more than storage.low_water of the store: little is left for all others, which come "
            "and go; raise storage.max_size, or unpin some"
        )


def _short(mark: Mark) -> str:
    return f"{mark.digest.algorithm}:{mark.digest.hex[:12]}" if mark.digest is not None else "not here"


def _since(mark: Mark) -> str:
    return "new" if mark.new else show_age(mark.at)


def _report(mark: Mark) -> dict[str, Any]:
    return {
        "repository": str(mark.repository),
        "reference": mark.reference,
        "digest": str(mark.digest) if mark.digest is not None else None,
        "size_bytes": mark.size,
        "pinned_at": show_time(mark.at),
        "new": mark.new,
    }
