"""`mirror ls`: the images that are here, what they take, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import PatternsArgument, caution_of, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, busy, show, show_age, show_json, show_time
from mirror.config.units import show_bytes
from mirror.oci.mediatype import INDEXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.pattern import ImagePattern
    from mirror.store.extent import Extent
    from mirror.store.inventory import Root
    from mirror.store.platforms import Shape
    from mirror.store.store import Store

_MOST_SHAPES = 1000  # images whose manifests are read for their platforms unless somebody asks for more
_SHORT = 12  # digits of a digest in a table
_COLUMNS = (
    Column("IMAGE"),
    Column("TAGS"),
    Column("PLATFORMS"),
    Column("SIZE", right=True),
    Column("OWN", right=True),
    Column("SHARED", right=True),
    Column("USED"),
    Column("STATE"),
    Column("STAYS"),
)


class Order(StrEnum):
    """What the list is sorted by."""

    USED = "used"
    SIZE = "size"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Line:
    """One image, or what belongs to none, with all that is told of it."""

    root: Root
    extent: Extent
    whole: bool
    shape: Shape | None  # None: its manifests were not read
    pins: tuple[str, ...]
    users: tuple[int, ...]  # processes that hold something of it now

    @property
    def complete(self) -> bool:
        """Whether it, or the image of one platform, can be pulled with no upstream."""
        if self.shape is None or self.root.media_type not in INDEXES:
            return self.whole
        return any(held.whole for held in self.shape.platforms)  # attestations do not count

    @property
    def told(self) -> str:
        """The state, and which tags were carried in: those are not asked for."""
        carried = [name.tag for name in self.root.names if name.settled and name.tag is not None]
        if not carried:
            return self.state
        which = "" if all(name.settled for name in self.root.names) else f" as {', '.join(carried)}"
        return f"{self.state}, carried in{which}"

    @property
    def state(self) -> str:
        """`complete`, or what is missing."""
        if self.root.media_type is None:
            return ""
        if self.complete:
            return "complete"
        here = [held for held in self.shape.platforms if held.here] if self.shape is not None else []
        if not here:
            return "partial"
        return "partial: " + ", ".join(
            f"{held.name} lacks {held.lacking} of {held.named}".strip() for held in here if not held.whole
        )

    @property
    def stays(self) -> str:
        """Why it is still here."""
        reasons = [f"pinned: {pin}" for pin in self.pins] or ["pinned"] * self.root.pinned
        if self.users:
            reasons.append(f"in use by process {', '.join(map(str, self.users))}")
        if self.root.needed:
            reasons.append("part of another image too")
        if self.root.media_type is None:
            reasons.append("belongs to no image")
        if self.shape is not None and self.shape.subject is not None and not self.root.needed:
            reasons.append(f"refers to {_short(self.shape.subject)}, which is not here")
        return "; ".join(reasons) or "until its room is needed"


def ls(  # noqa: PLR0917  # typer passes them by name
    images: PatternsArgument = None,
    sort: Annotated[Order, typer.Option("--sort", help="By last use, size or name.")] = Order.USED,
    everything: Annotated[bool, typer.Option("--all", help="Also list what belongs to no image.")] = False,
    tags: Annotated[bool, typer.Option("--tags", help="Print a line for each tag.")] = False,
    platforms: Annotated[
        bool | None,
        typer.Option(
            help=f"Read manifests for their platforms; by default where no more than {_MOST_SHAPES} images are listed."
        ),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the images that are here. With what each takes, when it was used last, and why it stays."""
    patterns = parsed(images)
    with opened(config, as_json=json) as (_, store):
        with busy("reading the index", hidden=json):
            lines = _read(store, patterns, everything=everything, platforms=platforms)
        caution_of(store)
    if not lines and patterns:
        typer.echo(f"nothing here matches {', '.join(map(str, patterns))}; see mirror ls, or mirror why", err=True)
        if json:
            show_json(images=[])
        raise typer.Exit(1)
    lines.sort(key=_KEYS[sort])
    if json:
        show_json(images=(_report(line) for line in lines))
        return
    show(_COLUMNS, [row for line in lines for row in _rows(line, each_tag=tags)])


_KEYS: Mapping[Order, Any] = {
    Order.USED: lambda line: (-line.root.used, line.root.title),
    Order.SIZE: lambda line: (-line.extent.size, line.root.title),
    Order.NAME: lambda line: (line.root.media_type is None, line.root.title),
}


def _read(store: Store, patterns: Sequence[ImagePattern], *, everything: bool, platforms: bool | None) -> list[Line]:
    from mirror.store.inuse import in_use  # noqa: PLC0415  # not needed to print help
    from mirror.store.inventory import Inventory, matches  # noqa: PLC0415
    from mirror.store.platforms import Shapes  # noqa: PLC0415

    with Inventory(store.layout) as inventory:
        roots = inventory.images(patterns)
        if everything:
            loose = inventory.loose()
            roots += [root for root in loose if not patterns or any(matches(pattern, root) for pattern in patterns)]
        measure = inventory.measure(len(roots))
        extents = measure.extents([(root.node,) for root in roots])
        users = inventory.users(in_use(store.layout))
        pins: dict[Digest, list[str]] = {}
        for pin in inventory.pins():
            if pin.digest is not None:
                pins.setdefault(pin.digest, []).append(str(pin))
        read = len(roots) <= _MOST_SHAPES if platforms is None else platforms
        shapes = Shapes(store.layout, inventory)
        return [
            Line(
                root,
                extent,
                measure.whole(root.node),
                shapes.of(root) if read and root.media_type is not None else None,
                tuple(pins.get(root.digest, ())),
                tuple(sorted(users.get(root.node, ()))),
            )
            for root, extent in zip(roots, extents, strict=True)
        ]


def _rows(line: Line, *, each_tag: bool) -> Iterator[tuple[str, ...]]:
    size, own, _ = line.extent
    figures = (show_bytes(size), show_bytes(own), show_bytes(size - own))
    rest = (_platforms(line.shape), *figures, show_age(line.root.used), line.told, line.stays)
    short = _short(line.root.digest)
    if len(line.root.names) == 1:  # as most have
        [name] = line.root.names
        yield (str(name.repository), name.tag or short, *rest)
        return
    by_repository: dict[str, list[str]] = {}
    for name in line.root.names:
        by_repository.setdefault(str(name.repository), []).append(name.tag or short)
    for path, tags in (by_repository or {"": [short]}).items():
        for text in tags if each_tag else [", ".join(tags)]:
            yield (path, text, *rest)


def _short(digest: Digest) -> str:
    return f"@{digest.hex[:_SHORT]}"


def _platforms(shape: Shape | None) -> str:
    """Return which platforms are here, and how many are not: `linux/amd64 (+3 not here)`."""
    if shape is None:
        return ""
    words = [held.name + ("" if held.whole else " (in part)") for held in shape.platforms if held.here and held.name]
    absent = sum(not held.here for held in shape.platforms)
    if absent:
        words.append(f"(+{absent} not here)" if words else f"none of {absent}")
    return shape.artifact or " ".join(words)


def _report(line: Line) -> dict[str, Any]:
    root, shape = line.root, line.shape
    return {
        "digest": str(root.digest),
        "media_type": root.media_type,
        "names": [{"repository": str(name.repository), "tag": name.tag} for name in root.names],
        "carried_in": [root.title_of(name) for name in root.names if name.settled],
        "platforms": None
        if shape is None
        else [
            {
                "platform": held.name or None,
                "digest": str(held.digest),
                "state": "complete" if held.whole else "partial" if held.here else "absent",
                "missing": held.lacking,
            }
            for held in shape.platforms
        ],
        "subject": str(shape.subject) if shape is not None and shape.subject is not None else None,
        "size_bytes": line.extent.size,
        "own_bytes": line.extent.own,
        "shared_bytes": line.extent.size - line.extent.own,
        "files": line.extent.files,
        "used_at": show_time(root.used),
        "state": "complete" if line.complete else "partial",
        "pinned": root.pinned,
        "pins": list(line.pins),
        "in_use_by": list(line.users),
        "needed_by_another": root.needed,
    }
