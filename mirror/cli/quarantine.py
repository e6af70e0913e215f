"""`mirror quarantine` and `mirror release`: what waits because a rule of `pulls` has `min_age`, and an end to it."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from mirror.cli.opening import DryRunOption, PatternsArgument, caution, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, counted, show, show_json, show_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.cache.quarantine import Held, Quarantine
    from mirror.config import Config
    from mirror.oci.digest import Digest
    from mirror.oci.name import Repository
    from mirror.oci.pattern import ImagePattern
    from mirror.store.store import Store

_COLUMNS = (Column("TAG"), Column("SERVED NOW"), Column("HELD BACK"), Column("SINCE"), Column("UNTIL"))
_SHORT = 12  # digits of a digest in a table


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A digest that is released though nobody has asked for a tag that means it."""

    repository: Repository
    digest: Digest

    def __str__(self) -> str:
        return f"{self.repository}@{self.digest}"


def quarantine(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the tags whose new digest is held back by a rule of pulls with min_age, and until when."""
    with opened(config, as_json=json) as (settings, store):
        held = _quarantine(settings, store).all()
    if json:
        show_json(held=[_report(one) for one in held])
        return
    if not any(rule.min_age for rule in settings.pulls):
        caution("no rule of pulls has min_age, so nothing is held back")
    if held:
        show(_COLUMNS, [_row(one) for one in held])
        typer.echo("")
    typer.echo(f"{counted(len(held), 'digest')} held back")


def release(
    images: PatternsArgument = None,
    dry_run: DryRunOption = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Let tags mean from now on what is held back of them. A running mirror goes by it at once."""
    patterns = parsed(images)
    if not patterns:
        raise typer.BadParameter("name what to release, as nginx:1.25 or NAME@DIGEST; mirror quarantine lists it")
    with opened(config, as_json=json) as (settings, store):
        waiting = _quarantine(settings, store)
        held = [one for one in waiting.all() if any(_means(pattern, one) for pattern in patterns)]
        unmatched = [pattern for pattern in patterns if not any(_means(pattern, one) for one in held)]
        ahead = [found for pattern in unmatched if (found := _ahead(pattern)) is not None]
        unmatched = [pattern for pattern in unmatched if _ahead(pattern) is None]
        if not dry_run:
            for one in held:
                waiting.release(one)
            for other in ahead:
                waiting.release_digest(other.repository, other.digest)
            store.dealings.flush()
            asyncio.run(_ask_anew(settings, store, held))
    _tell(held, ahead, as_json=json, dry_run=dry_run)
    for pattern in unmatched:
        typer.echo(f"nothing that is held back matches {pattern}; see mirror quarantine", err=True)
    raise typer.Exit(1 if unmatched else 0)


def _quarantine(settings: Config, store: Store) -> Quarantine:
    from mirror.cache.admission import Admission  # noqa: PLC0415  # not needed to print help
    from mirror.cache.quarantine import Quarantine  # noqa: PLC0415  # the same

    return Quarantine(Admission(settings.pulls, store.index), store.dealings)


def _means(pattern: ImagePattern, one: Held) -> bool:
    return pattern.has_repository(one.repository) and pattern.has_tag(one.tag.name) and pattern.has_digest(one.digest)


def _ahead(pattern: ImagePattern) -> _Ahead | None:
    """Return what a pattern means that names one repository and one digest, whatever is held back."""
    from mirror.oci.reference import ImageReference  # noqa: PLC0415  # not needed to print help

    digest = pattern.whole_digest
    if digest is None or pattern.name is None:
        return None
    return _Ahead(ImageReference.parse(pattern.text).repository, digest)


async def _ask_anew(settings: Config, store: Store, held: Sequence[Held]) -> None:
    """Let the next pull of each tag ask upstream what it is, though what it meant before may be fresh for hours."""
    from mirror.cache.freshness import Freshness  # noqa: PLC0415  # not needed to print help
    from mirror.store.changes import SETTLED, TagSet  # noqa: PLC0415  # the same

    freshness = Freshness(settings.freshness)
    now = time.time()
    longest = max((rule.ttl for rule in settings.budget), default=0.0)
    for one in held:
        known = store.index.tag(one.repository, one.tag.name)
        if known is None or known.at >= SETTLED:
            continue
        rule = freshness.rule(one.repository, one.tag.name)
        age = max(rule.ttl + rule.stale_while_revalidate, longest)
        if age >= rule.ttl + rule.stale_if_error:  # it is still to be served where upstream cannot be asked
            age = rule.ttl + rule.stale_while_revalidate
        at = max(now - age - 1.0, 1.0) if math.isfinite(age) else 1.0
        await store.index.apply(TagSet(one.repository, one.tag.name, known.digest, min(at, known.at)))


def _tell(held: Sequence[Held], ahead: Sequence[_Ahead], *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        show_json(released=[_report(one) for one in held], ahead=[str(one) for one in ahead], dry_run=dry_run)
        return
    done = "would be released" if dry_run else "released"
    for one in held:
        typer.echo(f"{done}: {one}")
    for other in ahead:
        typer.echo(f"{done}: {other}, of which no tag is held back now: it is served as soon as one means it")


def _row(one: Held) -> tuple[str, ...]:
    due = one.until <= time.time()
    return (
        f"{one.repository}:{one.tag}",
        one.former.hex[:_SHORT] if one.former else "nothing",
        one.digest.hex[:_SHORT],
        show_time(one.since) or "",
        "the next pull" if due else show_time(one.until) or "",
    )


def _report(one: Held) -> dict[str, Any]:
    return {
        "repository": str(one.repository),
        "tag": str(one.tag),
        "former": str(one.former) if one.former else None,
        "digest": str(one.digest),
        "since": show_time(one.since),
        "until": show_time(one.until),
    }
