"""`mirror purge`: take images off the disk now."""

from __future__ import annotations

import asyncio
import select
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import DryRunOption, PatternsArgument, caution, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, counted, progress, show, show_json
from mirror.config.units import show_bytes
from mirror.errors import StoreError
from mirror.store.changes import TagDropped, Unpinned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.oci.digest import Digest
    from mirror.oci.pattern import ImagePattern
    from mirror.store.inventory import Name, Pin, Root
    from mirror.store.store import Store

_COLUMNS = (Column("IMAGE"), Column("FREED", right=True), Column("DONE"))


@dataclass(slots=True)
class Step:
    """What is to be done, or was done, to one image."""

    root: Root
    tags: tuple[Name, ...] = ()  # only these go, if there are any; else the whole image
    keeps: str = ""  # the name under which the content stays then
    pins: tuple[Pin, ...] = ()  # go with it
    left: str = ""  # why nothing is done
    spared: bool = False  # as was asked for: everything that is not pinned goes
    freed: int = 0  # bytes
    done: bool = False

    @property
    def title(self) -> str:
        """What it is about, for a person."""
        names = self.tags or tuple(name for name in self.root.names if name.tag) or self.root.names[:1]
        return ", ".join(map(self.root.title_of, names)) or str(self.root.digest)

    def told(self, *, dry_run: bool) -> str:
        """What became of it, or would."""
        if self.left:
            return f"left: {self.left}"
        removed = "would be removed" if dry_run else "removed"
        return f"tag {removed}; the content stays: {self.keeps}" if self.tags else removed


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be done."""

    steps: list[Step]
    frees: int  # bytes, all together
    unmatched: list[ImagePattern] = field(default_factory=list)

    @property
    def due(self) -> list[Step]:
        """The steps that do something."""
        return [step for step in self.steps if not step.left]


def purge(  # noqa: PLR0917  # typer passes them by name
    images: PatternsArgument = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove everything that is not pinned.")] = False,
    dry_run: DryRunOption = False,
    include_pinned: Annotated[bool, typer.Option("--include-pinned", help="Pinned images too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Remove images now, with all that only they need. Of an image with other tags only the tag goes."""
    patterns = parsed(images)
    if everything == bool(patterns):
        raise typer.BadParameter("name the images to remove, or --all for everything")
    with opened(config, as_json=json) as (_, store):
        plan = _plan(store, patterns, everything=everything, include_pinned=include_pinned)
        if plan.due and not dry_run:
            if not yes and (everything or len(plan.due) > 1):
                _confirm(plan)
            with _until_told() as told, progress(len(plan.due), hidden=json) as advance:
                for step in plan.due:
                    try:
                        if told:
                            step.left = "interrupted"
                        else:
                            _take(store, step, force=include_pinned)
                    except StoreError as error:  # what is done is told all the same
                        step.left = str(error)
                    advance()
    if json:
        show_json(
            images=[_report(step) for step in plan.steps],
            freed_bytes=plan.frees if dry_run else sum(step.freed for step in plan.steps),
            dry_run=dry_run,
        )
    else:
        _tell(plan, dry_run=dry_run)
    for pattern in plan.unmatched:
        typer.echo(f"nothing here matches {pattern}; see mirror ls, or mirror why", err=True)
    raise typer.Exit(1 if plan.unmatched or any(step.left and not step.spared for step in plan.steps) else 0)


def _plan(store: Store, patterns: Sequence[ImagePattern], *, everything: bool, include_pinned: bool) -> Plan:
    from mirror.store.inventory import Inventory, matches  # noqa: PLC0415  # not needed to print help

    if not store.counted:  # else it could not be told what an image shares
        caution("looking through the disk first")
        asyncio.run(store.count())
    with Inventory(store.layout) as inventory:
        roots = inventory.images(patterns)
        if everything:
            roots += inventory.loose()
        pins: dict[Digest, list[Pin]] = {}
        for pin in inventory.pins():
            if pin.digest is not None:
                pins.setdefault(pin.digest, []).append(pin)
        steps = [
            step
            for root in roots
            for step in _steps(root, patterns, tuple(pins.get(root.digest, ())), include_pinned=include_pinned)
        ]
        # What is part of another image goes after it, if that goes.
        steps.sort(key=lambda step: (step.root.needed, step.title))
        whole = [step.root for step in steps if not step.left and not step.tags]
        [extent] = inventory.extents([whole])
        unmatched = [pattern for pattern in patterns if not any(matches(pattern, root) for root in roots)]
    return Plan(steps, extent.own, unmatched)


def _steps(
    root: Root, patterns: Sequence[ImagePattern], pins: tuple[Pin, ...], *, include_pinned: bool
) -> Iterator[Step]:
    """Decide what is to be done to one image."""
    from mirror.store.inventory import meant  # noqa: PLC0415  # not needed to print help

    alone = not patterns or any(pattern.bare and pattern.has_digest(root.digest) for pattern in patterns)
    wanted = [name for name in root.names if any(meant(pattern, root, name) for pattern in patterns)]
    others = [name for name in root.names if name not in wanted]
    if alone or not others:
        if root.pinned and not include_pinned:
            yield Step(root, left=_pinned(pins), spared=not patterns)
        else:
            yield Step(root, pins=pins)
        return
    keeps = f"it is {', '.join(map(root.title_of, others))} as well"
    tags = [name for name in wanted if name.tag is not None]
    held = {(pin.repository, pin.reference): pin for pin in pins}
    stays = tuple(name for name in tags if (name.repository, name.tag) in held and not include_pinned)
    goes = tuple(name for name in tags if name not in stays)
    gone = tuple(held[key] for name in goes if name.tag and (key := (name.repository, name.tag)) in held)
    if goes:
        yield Step(root, goes, keeps, gone)
    if stays:
        yield Step(root, stays, left=_pinned([pin for pin in pins if pin not in gone]))
    if not tags:
        yield Step(root, left=keeps)


def _take(store: Store, step: Step, *, force: bool) -> None:
    """Do one step; `step` tells what came of it."""
    root = step.root
    unit = None if step.tags else store.graph.unit(root.digest)
    if unit is not None and unit.owned:
        step.tags = tuple(name for name in root.names if name.tag is not None)
        step.keeps = "it is part of another image"
    if step.tags:
        changes = [TagDropped(name.repository, name.tag) for name in step.tags if name.tag is not None]
        unpinned = [Unpinned(pin.repository, pin.reference) for pin in step.pins]
        asyncio.run(store.index.apply(*changes, *unpinned))
        step.done = True
        return
    removal = store.remover.remove(root.digest, force=force)
    if removal is not None:
        step.freed = sum(content.taken for content in removal.gone)
        step.done = True  # and its pins went with it
        return
    unit = store.graph.unit(root.digest)
    if unit is None:
        step.left = "it went meanwhile"
    elif unit.pinned and not force:
        step.left = "it was pinned meanwhile"
    else:
        step.left = "it is in use; try again"


def _pinned(pins: Sequence[Pin]) -> str:
    names = ", ".join(map(str, pins))
    return f"pinned as {names}; mirror unpin it, or --include-pinned" if names else "pinned"


def _confirm(plan: Plan) -> None:
    """Ask, and raise `typer.Exit` unless the answer is yes; raise `typer.BadParameter` where nobody can answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise typer.BadParameter(f"{_summed(plan.due)} would go; say --yes, or see with --dry-run what it is")
    for step in plan.due[:20]:
        typer.echo(f"  {step.title}", err=True)
    if len(plan.due) > 20:  # noqa: PLR2004  # what fits a screen
        typer.echo(f"  and {len(plan.due) - 20} more", err=True)
    answer = ""
    # A flag, and not the exception: that one may be raised where nobody hears it, in a finalizer that runs just then.
    with _until_told() as told:
        typer.echo(f"Remove {_summed(plan.due)}, {show_bytes(plan.frees)}? [y/N]: ", err=True, nl=False)
        while not told:
            if select.select([sys.stdin], [], [], 0.2)[0]:  # a read would not hear of an interrupt just before it
                answer = sys.stdin.readline()  # `typer.confirm` would write a blank into the result
                break
    if answer.strip().lower() not in {"y", "yes"}:
        typer.echo(("" if answer else "\n") + "nothing was removed", err=True)
        raise typer.Exit(1)


def _summed(steps: Sequence[Step]) -> str:
    whole = [step.root for step in steps if not step.tags]
    images = sum(root.media_type is not None for root in whole)
    amounts = {"image": images, "tag": sum(len(step.tags) for step in steps)}
    loose = [counted(len(whole) - images, "file") + " of no image"] * (len(whole) > images)
    return ", ".join([counted(number, noun) for noun, number in amounts.items() if number] + loose)


def _tell(plan: Plan, *, dry_run: bool) -> None:
    if not plan.steps and plan.unmatched:
        return  # what is missing is told next
    if plan.steps:
        rows = [
            (step.title, show_bytes(step.freed) if step.done else "", step.told(dry_run=dry_run)) for step in plan.steps
        ]
        show(_COLUMNS, rows)
        typer.echo("")
    if dry_run:
        typer.echo(
            f"{_summed(plan.due) or 'nothing'} would go, and {show_bytes(plan.frees)} be free; nothing was changed"
        )
        return
    done = [step for step in plan.steps if step.done]
    text = _summed(done) or "nothing"
    typer.echo(f"{text} removed, {show_bytes(sum(step.freed for step in done))} free again")


def _report(step: Step) -> dict[str, Any]:
    return {
        "digest": str(step.root.digest),
        "names": [{"repository": str(name.repository), "tag": name.tag} for name in step.root.names],
        "action": "leave" if step.left else "remove tags" if step.tags else "remove",
        "tags": [{"repository": str(name.repository), "tag": name.tag} for name in step.tags],
        "reason": step.left or step.keeps or None,
        "done": step.done,
        "freed_bytes": step.freed,
    }


@contextmanager
def _until_told() -> Iterator[list[int]]:
    """Yield a list that is no longer empty when a person wants it to end: between two images, and not within one."""
    told: list[int] = []

    def hear(number: int, _frame: object) -> None:
        told.append(number)
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield told
    finally:
        signal.signal(signal.SIGINT, before)
