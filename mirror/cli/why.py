"""`mirror why`: why content is here, or is not, and what would have to happen for it to go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import caution_of, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import counted, show_age, show_json, show_time
from mirror.config.units import show_bytes
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from pathlib import Path

    from mirror.oci.digest import Digest
    from mirror.store.inventory import Inventory, Pin, Root
    from mirror.store.store import Store
    from mirror.store.trace import Trace

_MOST_ALIKE = 10  # digests with one beginning that are named


@dataclass(frozen=True, slots=True)
class Story:
    """All that there is to tell of one digest."""

    trace: Trace
    own: Root | None  # itself, if it is a root
    ways: tuple[tuple[Root, tuple[Digest, ...]], ...]  # the images that need it, and what lies between
    pins: tuple[Pin, ...]  # of itself and of those images
    frees: int  # bytes that would be free without it and those images
    users: tuple[int, ...]  # processes that read or fill it
    coming: int | None  # bytes on disk of a fill that is not finished
    aside: float | None  # since when a damaged copy lies aside, in seconds since the epoch


def why(
    what: Annotated[str, typer.Argument(metavar="DIGEST|IMAGE", help="A digest, 12 digits of it, or nginx:1.25.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Tell why content is here, or not. What needs it, who holds it, and when it would go."""
    with opened(config, as_json=json) as (_, store):
        story = _read(store, what)
        caution_of(store)
    if json:
        show_json(**_report(story))
    else:
        typer.echo("\n".join(_told(story)))
    raise typer.Exit(1 if story.trace.taken is None else 0)


def _read(store: Store, what: str) -> Story:
    from mirror.store.inuse import in_use  # noqa: PLC0415  # not needed to print help
    from mirror.store.inventory import Inventory  # noqa: PLC0415

    with Inventory(store.layout) as inventory:
        digest = _meant(inventory, what)
        found = inventory.trace(digest)
        roots = {root.node: root for root in inventory.roots(found.ways)}
        ways = tuple((roots[node], between) for node, between in found.ways.items() if node in roots)
        node = inventory.node(digest)
        own = inventory.roots([node]) if node is not None and found.root else []
        concerned = [*own, *roots.values()]
        digests = {digest, *(root.digest for root in concerned)}
        pins = tuple(pin for pin in inventory.pins() if pin.digest in digests)
        frees = inventory.extents([concerned])[0].own if concerned and not found.more_ways else 0
        return Story(
            found,
            own[0] if own else None,
            ways,
            pins,
            frees,
            tuple(sorted(in_use(store.layout).get(digest, ()))),
            _taken(store.layout.part(digest)),
            _since(store.layout.damaged(digest)),
        )


def _meant(inventory: Inventory, what: str) -> Digest:
    """Return the one digest that is meant; raise `MirrorError` where there is none, or more than one."""
    from mirror.oci.reference import ImageReference  # noqa: PLC0415  # not needed to print help

    [pattern] = parsed([what])
    if pattern.bare:
        alike = inventory.beginning(pattern, _MOST_ALIKE)
        if len(alike) > 1:
            raise MirrorError(f"{what} is the beginning of {', '.join(map(str, alike))}; write more of it")
        whole = alike[0] if alike else pattern.whole_digest
        if whole is None:
            raise MirrorError(
                f"no digest that is known here begins with {what}; write all of it, or see mirror ls --all"
            )
        return whole
    try:
        reference = ImageReference.parse(what)
    except MirrorError as error:
        raise typer.BadParameter(f"{error}; mirror ls takes globs") from None
    if reference.digest is not None:
        return reference.digest
    tag = str(reference.tag)
    digest = inventory.tagged(reference.repository, tag)
    if digest is None:
        raise MirrorError(
            f"{reference} is not here: it was not pulled through this mirror, it was evicted, or upstream said that "
            "there is no such tag; pull it"
        )
    return digest


def _taken(path: Path) -> int | None:
    try:
        return path.stat().st_blocks * 512  # what st_blocks counts in (stat(2))
    except FileNotFoundError:
        return None


def _since(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _told(story: Story) -> list[str]:
    found = story.trace
    lines = [f"{found.digest}"]
    kind = found.media_type or "blob"
    if found.taken is not None:
        lines.append(f"  here         {show_bytes(found.taken)} on disk, {kind}")
        lines.append(
            f"  used         {show_age(found.used) or 'not known'}; last checked {show_age(found.checked) or 'never'}"
        )
    else:
        lines.append("  not here     " + _absence(story))
    if found.names:
        lacks = f", {found.lacks} of them not here" if found.lacks else ", all here"
        lines.append(f"  names        {counted(found.names, 'other digest')}{lacks}")
    if story.coming is not None:
        who = f" by process {', '.join(map(str, story.users))}" if story.users else ", which nobody goes on with now"
        lines.append(f"  coming       {show_bytes(story.coming)} of it are here, filled{who}")
    elif story.users:
        lines.append(f"  in use       by process {', '.join(map(str, story.users))}")
    if story.aside is not None:
        lines.append(f"  put aside    a damaged copy, {show_age(story.aside)}")
    if story.own is not None:
        carried = _carried(story.own)
        lines += [
            f"  is           {name}{', carried in: upstream is not asked for it' if name in carried else ''}"
            for name in _names(story.own)
        ]
    for root, between in story.ways:
        chain = "".join(f" > {digest.hex[:12]}" for digest in between)
        lines.append(f"  needed by    {root.title}{chain}, used {show_age(root.used)}")
    if found.more_ways:
        lines.append("               and more")
    lines += [f"  pinned       as {pin}, {show_age(pin.at)}" for pin in story.pins]
    lines += [f"  held by      {repository}" for repository in found.repositories]
    lines += [f"  public       {namespace} gave it without credentials" for namespace in found.public]
    if found.taken is not None:
        lines.append(f"  goes         {_end(story)}")
    return lines


def _absence(story: Story) -> str:
    if story.ways:
        return "an image that is here names it, and nobody has asked for it yet"
    if story.trace.repositories:
        return "it was here; it was evicted or purged, or the disk has lost it"
    return "nothing that is here names it; it was never pulled, or it was evicted"


def _names(root: Root) -> list[str]:
    return [root.title_of(name) for name in root.names if name.tag] or [root.title]


def _carried(root: Root) -> list[str]:
    """Return those of its names for which upstream is not asked."""
    return [root.title_of(name) for name in root.names if name.settled]


def _end(story: Story) -> str:
    """Tell what would have to happen for it to go."""
    found = story.trace
    if story.pins or found.pinned:
        return "not before it is unpinned: " + (", ".join(map(str, story.pins)) or "see mirror pin --list")
    if found.rank is not None:
        before, of = found.rank
        frees = f"{show_bytes(story.frees)} would be free"
        return f"as number {before + 1} of {of} when room is needed, or with mirror purge; {frees}"
    if found.more_ways:
        return "with the last of the images that need it"
    if story.ways:
        which = "that image" if len(story.ways) == 1 else f"the last of those {len(story.ways)} images"
        return f"with {which}"
    return "at the next eviction"


def _report(story: Story) -> dict[str, Any]:
    found = story.trace
    return {
        "digest": str(found.digest),
        "here": found.taken is not None,
        "size_bytes": found.taken,
        "media_type": found.media_type,
        "used_at": show_time(found.used),
        "checked_at": show_time(found.checked),
        "names": found.names,
        "missing": found.lacks,
        "tags": _names(story.own) if story.own is not None else [],
        "carried_in": _carried(story.own) if story.own is not None else [],
        "needed_by": [
            {"image": root.title, "digest": str(root.digest), "through": [str(digest) for digest in between]}
            for root, between in story.ways
        ],
        "needed_by_more": found.more_ways,
        "pins": [str(pin) for pin in story.pins],
        "repositories": list(found.repositories),
        "public": list(found.public),
        "in_use_by": list(story.users),
        "filling_bytes": story.coming,
        "aside_since": show_time(story.aside),
        "rank": None if found.rank is None else {"before": found.rank[0], "of": found.rank[1]},
        "frees_bytes": story.frees,
    }
