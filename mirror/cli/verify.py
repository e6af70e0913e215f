"""`mirror verify`: read everything again, say what is wrong, and with `--repair` fetch it again."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror.cli.opening import PatternsArgument, caution, opened, parsed
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import Column, bytes_progress, counted, show, show_json
from mirror.config.units import parse_duration, show_bytes
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mirror.config import Config
    from mirror.oci.digest import Digest
    from mirror.oci.pattern import ImagePattern
    from mirror.store.audit import Audit
    from mirror.store.graph import Content
    from mirror.store.inspection import Finding
    from mirror.store.store import Store

_JOBS = 4
_AT_ONCE = 4  # fetches
_MOST = 20  # of a kind that are named in text; JSON has all
_COLUMNS = (Column("DIGEST"), Column("PROBLEM"), Column("IMAGES"), Column("DONE"))


@dataclass(slots=True)
class Problem:
    """One piece of content that is of no use."""

    finding: Finding
    images: tuple[str, ...]
    repaired: bool = False
    done: str = ""  # for a person


@dataclass(slots=True)
class Report:
    """What was found, and what became of it."""

    files: int = 0
    size: int = 0  # bytes
    seconds: float = 0.0
    skipped: int = 0
    problems: list[Problem] = field(default_factory=list)
    audit: Audit | None = None  # None: not made
    surveyed: bool = False
    unmatched: list[ImagePattern] = field(default_factory=list)
    interrupted: bool = False
    aside: set[Digest] = field(default_factory=set)  # of the problems, what had been put aside before

    @property
    def fine(self) -> bool:
        """Whether all is right now."""
        agreed = self.audit is None or self.audit.clean or self.surveyed
        whole = all(problem.repaired for problem in self.problems)
        return agreed and whole and not self.unmatched and not self.interrupted


def verify(  # noqa: PLR0917  # typer passes them by name
    images: PatternsArgument = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put aside what is wrong, and fetch it again.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, max=64, help="Files that are read at once.")] = min(
        _JOBS, os.cpu_count() or 1
    ),
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Leave out what was read and right in that time, as 1d."),
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Read all content again, or some, and say what is wrong. Without images index and disk are compared, too."""
    patterns = parsed(images)
    newest = _newest(since)
    with opened(config, as_json=json) as (settings, store):
        if not store.counted:
            if repair:
                caution("looking through the disk first")
                asyncio.run(store.count())
            else:
                caution("a mirror is still to look through the disk, as after a crash; what it will find is told too")
        report = Report()
        _read(store, patterns, newest, jobs, report, hidden=json)
        if not patterns and not report.interrupted:
            _compare(store, report)
        if repair and not report.interrupted:
            _repair(settings, store, report)
    if json:
        show_json(**_reported(report))
    else:
        _tell(report, repair=repair)
    for pattern in report.unmatched:
        typer.echo(f"nothing here matches {pattern}; see mirror ls, or mirror why", err=True)
    raise typer.Exit(0 if report.fine else 1)


def _newest(since: str | None) -> float:
    """Return the time up to which what was checked is checked again."""
    if since is None:
        return float("inf")
    try:
        return time.time() - parse_duration(since)
    except ValueError as error:
        raise typer.BadParameter(f"--since {since} {error}") from None


# --- reading -----------------------------------------------------------------------------------------------------


def _read(
    store: Store, patterns: Sequence[ImagePattern], newest: float, jobs: int, report: Report, *, hidden: bool
) -> None:
    from mirror.store.rejection import images_needing  # noqa: PLC0415  # not needed to print help
    from mirror.store.verification import Verification  # noqa: PLC0415  # the same

    chosen = _chosen(store, patterns, report)
    total = store.graph.totals().taken if chosen is None else sum(content.taken for content in chosen)
    contents = _all(store) if chosen is None else iter(chosen)
    began = time.monotonic()
    with bytes_progress(total, hidden=hidden) as advance, Verification(store, jobs=jobs, advance=advance) as reading:
        try:
            for finding in reading.run(_due(contents, newest, report, advance)):
                report.problems.append(Problem(finding, images_needing(store.layout, finding.digest)))
        except KeyboardInterrupt:
            report.interrupted = True
    report.files, report.size = reading.files, reading.size
    report.seconds = time.monotonic() - began


def _chosen(store: Store, patterns: Sequence[ImagePattern], report: Report) -> list[Content] | None:
    """Return what images that match need; None for everything."""
    if not patterns:
        return None
    from mirror.store.inventory import Inventory, matches  # noqa: PLC0415  # not needed to print help

    with Inventory(store.layout) as inventory:
        roots = inventory.images(patterns)
        needed = inventory.needed(roots)
    report.unmatched = [pattern for pattern in patterns if not any(matches(pattern, root) for root in roots)]
    return [content for digest in needed if (content := store.graph.content(digest)) is not None]


def _all(store: Store) -> Iterator[Content]:
    from mirror.store.verification import everything  # noqa: PLC0415  # not needed to print help

    return everything(store)


def _due(contents: Iterator[Content], newest: float, report: Report, advance: Any) -> Iterator[Digest]:
    for content in contents:
        if content.checked <= newest:
            yield content.digest
        else:
            report.skipped += 1
            advance(content.taken)


def _compare(store: Store, report: Report) -> None:
    """Compare index and disk; what is missing, or was put aside before, is a problem as what is wrong."""
    from mirror.store.audit import audit  # noqa: PLC0415  # not needed to print help
    from mirror.store.inspection import Finding, Verdict  # noqa: PLC0415  # the same
    from mirror.store.rejection import images_needing  # noqa: PLC0415  # the same

    found = report.audit = audit(store.layout)
    known = {problem.finding.digest for problem in report.problems}
    for digest in found.missing:  # skipped by `--since`, or gone since it was read
        if digest not in known:
            finding = Finding(digest, Verdict.MISSING, "it is not on the disk")
            report.problems.append(Problem(finding, images_needing(store.layout, digest)))
    found.missing = []
    names: dict[Digest, list[str]] = {}
    for name, digest in found.tags:
        names.setdefault(digest, []).append(name)
    for digest in store.aside.waiting():
        if digest not in known:
            finding = Finding(digest, Verdict.MISSING, "it was put aside before, and is not back yet")
            images = names.pop(digest, None) or images_needing(store.layout, digest)
            report.problems.append(Problem(finding, tuple(images)))
            report.aside.add(digest)
    found.tags = [(name, digest) for name, digest in found.tags if digest in names]


# --- repairing ---------------------------------------------------------------------------------------------------


def _repair(settings: Config, store: Store, report: Report) -> None:
    from mirror.store.rejection import reject  # noqa: PLC0415  # not needed to print help

    waiting = []
    for problem in report.problems:
        try:
            if problem.finding.digest in report.aside or reject(store, problem.finding):
                waiting.append(problem)
            else:
                problem.repaired, problem.done = True, "it was replaced meanwhile"
        except MirrorError as error:
            problem.done = f"failed: {error}"
    if waiting:
        asyncio.run(_fetch(settings, store, waiting))
        store.aside.tidy()
    if report.audit is not None and not report.audit.clean:
        asyncio.run(store.survey())
        report.surveyed = True


async def _fetch(settings: Config, store: Store, problems: Sequence[Problem]) -> None:
    from mirror.cache.cache import Cache  # noqa: PLC0415  # what speaks HTTP takes long to import
    from mirror.store.rejection import is_listing  # noqa: PLC0415  # the same
    from mirror.upstream.registries import Registries  # noqa: PLC0415

    upstreams = Registries(settings, instance=secrets.token_hex(8), request_id=lambda: None, book=store.dealings)
    cache = Cache(settings, store, upstreams)
    cache.attend()
    some = asyncio.Semaphore(_AT_ONCE)

    async def one(problem: Problem) -> None:
        async with some:
            try:
                held = await cache.healer.heal(problem.finding.digest)
            except MirrorError as error:
                problem.done = f"not fetched: {error}"
                return
        if held:
            problem.repaired, problem.done = True, "fetched again"
        elif problem.images and not is_listing(store.layout, problem.finding.digest):
            problem.done = "not fetched: nobody knows from where; pull the image again"
        else:
            store.aside.forget(problem.finding.digest)
            problem.repaired, problem.done = True, "thrown away: no image needs it"

    try:
        await asyncio.gather(*map(one, problems))
    finally:
        await cache.close()


# --- telling -----------------------------------------------------------------------------------------------------


def _tell(report: Report, *, repair: bool) -> None:
    if report.problems:
        rows = [
            (str(problem.finding.digest), problem.finding.reason, ", ".join(problem.images), problem.done)
            for problem in report.problems
        ]
        show(_COLUMNS if repair else _COLUMNS[:3], rows if repair else [row[:3] for row in rows])
        typer.echo("")
    if report.audit is not None:
        after = "; put right" if report.surveyed else ""
        unknown = [str(digest) for digest in report.audit.unknown]
        _list(unknown, f"on the disk, and not known to the index{after}")
        _list(report.audit.strange, f"no content{', thrown away' if report.surveyed else ''}")
        tags = [f"{name} ({digest})" for name, digest in report.audit.tags]
        _list(tags, f"a tag of a manifest that is not here{after}")
    typer.echo(_summed(report, repair=repair))


def _list(items: Sequence[str], what: str) -> None:
    for item in items[:_MOST]:
        typer.echo(f"{item}: {what}")
    if len(items) > _MOST:
        typer.echo(f"and {len(items) - _MOST} more: {what}")


def _summed(report: Report, *, repair: bool) -> str:
    text = f"{counted(report.files, 'file')} read, {show_bytes(report.size)}"
    if report.seconds > 1:
        text += f" in {report.seconds:.0f} s, {show_bytes(int(report.size / report.seconds))}/s"
    if report.skipped:
        text += f"; {report.skipped} left out, read before"
    bad = len(report.problems)
    if report.interrupted:
        text += "; interrupted: --since leaves out next time what was read by now"
    elif report.fine and not bad:
        text += ": all right" if report.audit is None or report.audit.clean else ": all right now"
    if bad:
        repaired = sum(problem.repaired for problem in report.problems)
        text += f"; {bad} of no use" + (f", {repaired} of them repaired" if repair else "; --repair fetches them again")
    elif not report.fine and not report.unmatched and not report.interrupted:
        text += "; index and disk differ; --repair puts that right"
    return text


def _reported(report: Report) -> dict[str, Any]:
    audit = report.audit
    return {
        "files": report.files,
        "bytes": report.size,
        "seconds": round(report.seconds, 3),
        "skipped": report.skipped,
        "interrupted": report.interrupted,
        "problems": [
            {
                "digest": str(problem.finding.digest),
                "problem": problem.finding.verdict.value,
                "reason": problem.finding.reason,
                "images": list(problem.images),
                "repaired": problem.repaired,
                "done": problem.done or None,
            }
            for problem in report.problems
        ],
        "unknown_files": [] if audit is None else [str(digest) for digest in audit.unknown],
        "strange_files": [] if audit is None else audit.strange,
        "empty_tags": [] if audit is None else [{"image": name, "digest": str(digest)} for name, digest in audit.tags],
        "surveyed": report.surveyed,
    }
