"""Puts a client's files where they belong, below a directory, and loses nothing that is there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mirror.clients.setup import Role
from mirror.errors import MirrorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.clients.setup import ClientFile

Outcome = Literal["written", "merged", "replaced", "unchanged"]


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of one file. `kept` is where the file that was there lies now, if it was changed."""

    path: Path
    outcome: Outcome
    kept: Path | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    file: ClientFile
    target: Path
    outcome: Outcome
    content: str


def place(files: Sequence[ClientFile], root: Path, *, force: bool) -> list[Placed]:
    """Write `files` below `root` (`/`: where they belong), each whole or not at all, and say what became of each.

    A file of JSON lists is merged with the one that is there. Another one that is there and differs is replaced only
    with `force`; else `MirrorError` names all such files, and nothing is written. What is changed is kept as `.bak`.
    """
    problems: list[str] = []
    steps = [step for file in files if (step := _plan(file, root, problems, force=force)) is not None]
    if problems:
        raise MirrorError("\n".join(problems))
    return [_write(step) for step in steps]


def _plan(file: ClientFile, root: Path, problems: list[str], *, force: bool) -> _Step | None:
    """Return what is to be done for one file, or add to `problems` why it cannot be."""
    target = root / file.path.lstrip("/")
    try:
        present = target.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):  # the latter is told when the directory is made
        return _Step(file, target, "written", file.content)
    except UnicodeDecodeError:
        present = None
    if present == file.content:
        return _Step(file, target, "unchanged", file.content)
    if file.role is Role.MERGED and present is not None:
        try:
            merged = _merged(present, file.content)
        except ValueError as error:
            if not force:
                problems.append(f"{target} is there and {error}; mend it, or --force replaces it and keeps it as .bak")
                return None
        else:
            return _Step(file, target, "unchanged" if merged is None else "merged", merged or present)
    if force:
        return _Step(file, target, "replaced", file.content)
    problems.append(
        f"{target} is there and holds something else; compare it with what is printed without --write, or --force "
        "replaces it and keeps it as .bak"
    )
    return None


def _merged(present: str, ours: str) -> str | None:
    """Return JSON that holds all that is present, and our lists' items first; None where they are all there already.

    Raise `ValueError` with what is wrong with what is present. An item that is there further back moves to the front.
    """
    try:
        document: Any = json.loads(present) if present.strip() else {}  # Docker takes an empty file too
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004  # the type of what a person wrote
    changed = False
    for key, items in json.loads(ours).items():
        there = document.get(key, [])
        if not isinstance(there, list):
            raise ValueError(f"has a {key} that is not a list")  # noqa: TRY004  # likewise
        wanted = items + [item for item in there if _url(item) not in items]
        if [_url(item) for item in there] != [_url(item) for item in wanted]:
            document[key] = wanted
            changed = True
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n" if changed else None


def _url(item: object) -> object:
    """Return what two items are compared by: Docker takes a URL with a slash at its end for the same."""
    return item.rstrip("/") if isinstance(item, str) else item


def _write(step: _Step) -> Placed:
    if step.outcome == "unchanged":
        return Placed(step.target, step.outcome)
    target = step.target.resolve()  # a link stays a link
    target.parent.mkdir(parents=True, exist_ok=True)
    kept, mode = None, step.file.mode
    if step.outcome != "written":
        kept = target.with_name(f"{target.name}.bak")
        shutil.copy2(target, kept)
        mode = target.stat().st_mode & 0o7777
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, prefix=".mirror-", delete=False) as new:
        try:
            new.write(step.content)
            new.flush()
            os.fchmod(new.fileno(), mode)
            os.fsync(new.fileno())
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
    return Placed(step.target, step.outcome, kept)
