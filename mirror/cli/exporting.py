"""What `mirror export` does: gather, write, tell."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from mirror.airgap.bundle import asking, gathering, writer
from mirror.airgap.bundle.beside import Beside
from mirror.airgap.bundle.source import BESIDE
from mirror.airgap.bundle.targets import refusing
from mirror.airgap.bundle.writer import Damaged
from mirror.cli.opening import caution
from mirror.cli.tables import bytes_progress, counted, progress, show_json
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mirror.airgap.bundle.asking import Missing, Question
    from mirror.airgap.bundle.gathering import Choice, Gathered
    from mirror.airgap.bundle.manifest import BundleManifest
    from mirror.airgap.bundle.writer import Plan
    from mirror.airgap.wanted import Unread
    from mirror.cli.bundling import Output
    from mirror.cli.inputs import Inputs
    from mirror.oci.pattern import ImagePattern
    from mirror.store.store import Store

__all__ = ["Damaged", "Export", "gathered", "report", "write"]

_MOST = 20  # of a kind that are told in text; JSON has all


@dataclass(slots=True)
class Export:
    """One export, as far as it has come."""

    store: Store  # closed by the time of writing: then content is only opened
    found: Gathered
    manifest: BundleManifest
    missing: tuple[Missing, ...]
    unread: tuple[Unread, ...] = ()
    plan: Plan | None = None  # None: nothing was written
    files: tuple[Path, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether all that was asked for is here."""
        return not self.missing and not self.unread

    def close(self) -> None:
        """Let go of what is held."""
        self.found.close()


def gathered(
    store: Store,
    patterns: Sequence[ImagePattern],
    inputs: Inputs | None,
    choice: Choice,
    parent: BundleManifest | None,
    *,
    hidden: bool,
) -> Export:
    """Find out what there is to write; the store may be closed behind that. Raise `StoreError`."""
    questions = [asking.by_patterns(store, patterns)]
    unread: tuple[Unread, ...] = ()
    if inputs is not None:
        inputs = inputs.with_history(store.layout)
        unread = inputs.unread
        questions.append(asking.by_list(store, inputs.wanted))
    asked = _all(questions)
    with progress(len(asked), hidden=hidden) as advance:
        found = asyncio.run(gathering.gather(store, asked, choice, advance))
    missing = (*(one for question in questions for one in question.missing), *found.missing)
    return Export(store, found, found.manifest(parent), tuple(dict.fromkeys(missing)), unread)


def write(made: Export, to: Output, signature: bytes | None, *, hidden: bool) -> None:
    """Write the bundle, and its manifest beside it. Raise `Damaged`, or another `MirrorError`: then there is none."""
    plan = writer.plan(made.manifest, made.found.runnable, made.found.bodies, signature=signature)
    opened = made.store.blobs.open
    with bytes_progress(plan.content_size, hidden=hidden) as advance:
        if to.path is None:
            writer.write(plan, to.open(plan.archive_size), opened, advance)
        else:
            with refusing(to.path), closing(Beside(to.path, dict(plan.documents))) as beside:
                made.files = writer.write(plan, to.open(plan.archive_size), opened, advance, beside.clear)
                made.files += beside.finish()
    made.plan = plan


def _all(questions: Sequence[Question]) -> list[asking.Asked]:
    once = {(one.reference, one.digest, one.platforms): one for question in questions for one in question.asked}
    return sorted(once.values(), key=lambda one: (one.reference, str(one.digest), tuple(map(str, one.platforms))))


# --- telling -------------------------------------------------------------------------------------------------------


def report(made: Export, to: Output, *, allowed: bool, as_json: bool) -> None:
    """Tell what was written, or why nothing was; beside a bundle on standard output all goes to standard error."""
    if as_json:
        if to.path is None:
            typer.echo(json.dumps(_reported(made, to), ensure_ascii=False), err=True)
        else:
            show_json(**_reported(made, to))
        return
    for sentence in _some([*made.found.left_out]):
        caution(sentence)
    for one in _some([*map(_missing, made.missing), *map(_unread, made.unread)]):
        typer.echo(one, err=True)
    if made.plan is None:
        why = "is wholly here" if not made.manifest.images else "nothing is written; --allow-missing writes the rest"
        typer.echo(f"nothing of it {why}" if not made.manifest.images else why, err=True)
        return
    typer.echo(_summary(made, to, allowed=allowed), err=to.path is None)


def _summary(made: Export, to: Output, *, allowed: bool) -> str:
    assert made.plan is not None  # noqa: S101  # the caller looked
    carried = made.plan.contents
    left = len(made.manifest.contents) - len(carried)
    referring = sum(bool(image.subject) for image in made.manifest.images)
    more = f" and {referring} for what refers to them" if referring else ""
    lines = [
        f"{to.name}: {counted(len(made.manifest.images) - referring, 'name')}{more}, "
        f"{counted(len(carried), 'content')}, "
        f"{show_bytes(made.plan.content_size)}"
        + (f"; {counted(left, 'content')} left out, which {made.manifest.parent} has" if left else "")
        + (" (without what is missing)" if allowed and not made.whole else ""),
        f"identity {made.manifest.identity}",
    ]
    if to.part is not None:
        parts = [path for path in made.files if path.suffix[1:].isdigit()]
        lines.append(f"{counted(len(parts), 'part')} of {show_bytes(to.part)}, {parts[0].name} to {parts[-1].name}")
    if made.files:
        beside = next(path for path in made.files if path.name.endswith(BESIDE))
        lines.append(f"keep {beside}: by --since-bundle the next bundle leaves out what is in this one")
    return "\n".join(lines)


def _some(lines: list[str]) -> list[str]:
    if len(lines) <= _MOST:
        return lines
    return [*lines[:_MOST], f"and {len(lines) - _MOST} more; --json has all"]


def _missing(one: Missing) -> str:
    return f"{one.place}: {one.reference}: {one.reason}" if one.place else f"{one.reference}: {one.reason}"


def _unread(one: Unread) -> str:
    return f"{one.place}: {one.text}: {one.reason}"


def _reported(made: Export, to: Output) -> dict[str, Any]:
    written = made.plan is not None
    return {
        "written": written,
        "output": None if to.path is None else str(to.path),
        "files": [str(path) for path in made.files],
        "identity": made.manifest.identity if written else None,
        "parent": made.manifest.parent,
        "rewritten": made.manifest.rewritten,
        "images": [asdict(image) for image in made.manifest.images],
        "contents": len(made.manifest.contents),
        "contents_bytes": sum(content.size for content in made.manifest.contents),
        "carried": len(made.manifest.carried),
        "carried_bytes": sum(content.size for content in made.manifest.carried),
        "missing": [asdict(one) for one in made.missing],
        "unread": [asdict(one) for one in made.unread],
        "notes": made.found.left_out,
    }
