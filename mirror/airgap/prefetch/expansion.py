"""From what a list asks for to single images: selections become the tags that they choose, repeated ones stand once."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from mirror.airgap.prefetch.outcome import Planned
from mirror.airgap.prefetch.place import Place
from mirror.errors import MirrorError, TagInvalid
from mirror.oci.name import Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.airgap.prefetch.asking import Asking
    from mirror.airgap.prefetch.order import Order
    from mirror.airgap.prefetch.timing import Timing
    from mirror.airgap.wanted import Wanted
    from mirror.oci.name import Repository

_EXAMPLES = 5  # tags that are named where none is chosen


class Expansion:
    """Asks upstream for tags, each repository once; or looks into the lock."""

    def __init__(self, order: Order, asking: Callable[[str], Asking], timing: Timing) -> None:
        """`asking` returns by namespace how to ask an upstream; it may raise `MirrorError`."""
        self._asking = asking
        self._timing = timing
        self._places = asyncio.Semaphore(order.jobs)
        self._locked: dict[str, list[str]] | None = None
        if order.locked is not None and not order.amend:
            self._locked = defaultdict(list)
            for key in order.locked:
                repository, _, tag = key.rpartition(":")
                self._locked[repository].append(tag)

    async def run(self, wanted: Sequence[Wanted]) -> list[Wanted | Planned]:
        """Return single images in the order of `wanted`, each once; a selection that chose none is a failed plan."""
        selections: dict[Repository, list[int]] = defaultdict(list)
        for position, one in enumerate(wanted):
            if one.selection is not None:
                selections[one.repository].append(position)
        expanded: dict[int, list[Wanted | Planned]] = {}

        async def expand(repository: Repository, positions: Sequence[int]) -> None:
            async with Place(self._places, self._timing) as place:
                tags = await self._tags(place, repository)
            for position in positions:
                expanded[position] = self._choose(wanted[position], tags)

        async with asyncio.TaskGroup() as group:
            for repository, positions in selections.items():
                group.create_task(expand(repository, positions))
        found: dict[object, Wanted | Planned] = {}
        for position, one in enumerate(wanted):
            for single in expanded.get(position, [one]):
                found.setdefault(_key(single), single)
        return list(found.values())

    async def _tags(self, place: Place, repository: Repository) -> list[str] | MirrorError:
        if self._locked is not None:
            return sorted(self._locked.get(str(repository), ()))
        try:
            return await self._asking(repository.namespace).tags(place, repository)
        except MirrorError as error:
            return error

    def _choose(self, one: Wanted, tags: list[str] | MirrorError) -> list[Wanted | Planned]:
        assert one.selection is not None  # noqa: S101  # the caller sees to it
        if isinstance(tags, MirrorError):
            return [Planned(one, failure=f"which tags there are is not known: {tags}")]
        chosen = [replace(one, tag=tag, selection=None) for tag in map(_tag, one.selection.choose(tags)) if tag]
        if chosen:
            return list(chosen)
        where = "the lock file" if self._locked is not None else one.repository.namespace
        has = f"{len(tags)} tags of it, as {', '.join(tags[:_EXAMPLES])}" if tags else "no tags of it"
        return [Planned(one, failure=f"no tag matches {one.selection}; {where} has {has}")]


def _tag(text: str) -> Tag | None:
    """Return a tag; None for what a registry lists that is none."""
    try:
        return Tag.parse(text)
    except TagInvalid:
        return None


def _key(single: Wanted | Planned) -> object:
    if isinstance(single, Planned):
        return str(single.wanted), single.failure
    return single.repository, single.tag, single.digest, single.platforms
