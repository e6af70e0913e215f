"""`mirror refresh`: ask upstream now what a tag is, however fresh it is here."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from mirror.cli.opening import PatternsArgument, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, progress, show, show_json, show_time
from mirror.errors import MirrorError
from mirror.oci.name import Repository, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mirror.cache.cache import Cache
    from mirror.config import Config
    from mirror.oci.pattern import ImagePattern
    from mirror.store.index import Validated
    from mirror.store.store import Store

_AT_ONCE = 4  # questions
_COLUMNS = (Column("TAG"), Column("WAS"), Column("IS"), Column(""))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one tag."""

    repository: Repository
    tag: Tag
    before: Validated | None = None  # None: it was not here
    after: Validated | None = None
    failure: str | None = None

    @property
    def told(self) -> str:
        """What became of it, for a person."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        if self.before is None:
            return "new here"
        same = self.after is not None and self.before.digest == self.after.digest
        return ("unchanged" if same else "changed") + (", no longer as carried in" if self.was_carried_in else "")

    @property
    def was_carried_in(self) -> bool:
        """Whether nobody was asked for it up to now."""
        from mirror.store.changes import SETTLED  # noqa: PLC0415  # not needed to print help

        return self.before is not None and self.before.at >= SETTLED


def refresh(images: PatternsArgument = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Ask upstream now what tags are, whatever their ttl. A tag written out need not be here yet."""
    patterns = parsed(images)
    if not patterns:
        raise typer.BadParameter("name the tags to ask for, as nginx:1.25")
    if any(pattern.digest is not None for pattern in patterns):
        raise typer.BadParameter("a digest never changes; name tags, as nginx:1.25")
    with opened(config, as_json=json) as (settings, store):
        if settings.server.offline:
            raise MirrorError(
                "this mirror is offline by its configuration, so upstream is not asked what tags are; import a bundle "
                "that has newer ones, or set server.offline: false"
            )
        tags, unmatched = _tags(store, patterns)
        with progress(len(tags), hidden=json) as advance:
            answers = asyncio.run(_ask(settings, store, tags, advance))
    if json:
        show_json(tags=[_report(answer) for answer in answers])
    elif answers:
        show(_COLUMNS, [_row(answer) for answer in answers])
    for pattern in unmatched:
        typer.echo(f"no tag that is here matches {pattern}; see mirror ls --tags, or write the tag out", err=True)
    raise typer.Exit(1 if unmatched or any(answer.failure is not None for answer in answers) else 0)


def _tags(store: Store, patterns: Sequence[ImagePattern]) -> tuple[list[tuple[Repository, Tag]], list[ImagePattern]]:
    """Return the tags that are meant, in order, and the patterns that mean none."""
    from mirror.oci.reference import ImageReference  # noqa: PLC0415  # not needed to print help
    from mirror.store.inventory import Inventory, meant  # noqa: PLC0415

    found: dict[tuple[Repository, Tag], None] = {}
    unmatched = []
    for pattern in patterns:
        if pattern.exact:
            reference = ImageReference.parse(pattern.text)
            found[reference.repository, reference.tag or Tag("latest")] = None
    with Inventory(store.layout) as inventory:
        for pattern in patterns:
            if pattern.exact:
                continue
            names = [
                (name.repository, Tag(name.tag))
                for root in inventory.images([pattern])
                for name in root.names
                if name.tag is not None and meant(pattern, root, name)
            ]
            found |= dict.fromkeys(names)
            if not names:
                unmatched.append(pattern)
    return sorted(found, key=lambda key: (str(key[0]), str(key[1]))), unmatched


async def _ask(
    settings: Config, store: Store, tags: Sequence[tuple[Repository, Tag]], advance: Callable[[], None]
) -> list[Answer]:
    from mirror.cache.cache import Cache  # noqa: PLC0415  # what speaks HTTP takes long to import
    from mirror.upstream.registries import Registries  # noqa: PLC0415

    upstreams = Registries(settings, instance=secrets.token_hex(8), request_id=lambda: None, book=store.dealings)
    cache = Cache(settings, store, upstreams)
    some = asyncio.Semaphore(_AT_ONCE)

    async def one(repository: Repository, tag: Tag) -> Answer:
        async with some:
            answer = await _ask_one(cache, repository, tag)
        advance()
        return answer

    try:
        return await asyncio.gather(*(one(*key) for key in tags))
    finally:
        await cache.close()


async def _ask_one(cache: Cache, repository: Repository, tag: Tag) -> Answer:
    try:
        before, after = await cache.refresh(repository, tag)
    except MirrorError as error:
        return Answer(repository, tag, failure=str(error))
    return Answer(repository, tag, before, after)


def _row(answer: Answer) -> tuple[str, ...]:
    return (f"{answer.repository}:{answer.tag}", _short(answer.before), _short(answer.after), answer.told)


def _short(validated: Validated | None) -> str:
    return validated.digest.hex[:12] if validated is not None else ""


def _report(answer: Answer) -> dict[str, Any]:
    before, after = answer.before, answer.after
    return {
        "repository": str(answer.repository),
        "tag": str(answer.tag),
        "before": str(before.digest) if before is not None else None,
        "after": str(after.digest) if after is not None else None,
        "was_carried_in": answer.was_carried_in,
        "validated_at": show_time(after.at) if after is not None else None,
        "failure": answer.failure,
    }
