"""Puts a client's files where they belong, below a directory, and loses nothing that is there."""

from __future__ import annotations

import itertools
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
    with `force`. What is changed is kept beside it: as `.bak`, or `.bak.2` and so on where that is taken. Raise
    `MirrorError`, which names all that cannot be written, and then nothing is.
    """
    steps, problems = [], []
    for file in files:
        try:
            steps.append(_plan(file, root, force=force))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise MirrorError("\n".join(problems))
    return [_write(step) for step in steps]


def _plan(file: ClientFile, root: Path, *, force: bool) -> _Step:
    """Return what is to be done for one file; raise `ValueError` with why it cannot be."""
    target = root / file.path.lstrip("/")
    try:
        present = _present(target, root)
    except FileNotFoundError:
        beside = sorted(path.name for pattern in file.displaces for path in target.parent.glob(pattern))
        if beside and not force:
            raise ValueError(
                f"{target} would put {', '.join(beside)} beside it out of use, so that pushes, and pulls past the "
                "mirror, fail where a registry needs them; --force writes it all the same: name them in it then (ca, "
                "client)"
            ) from None
        return _Step(file, target, "written", file.content)
    if present == file.content:
        return _Step(file, target, "unchanged", file.content)
    if file.role is Role.MERGED and present is not None:
        try:
            merged = _merged(present, file.content)
        except ValueError as error:
            if not force:
                problem = f"{target} is there and {error}; mend it, or --force replaces it and keeps it as .bak"
                raise ValueError(problem) from None
        else:
            return _Step(file, target, "unchanged" if merged is None else "merged", merged or present)
    if force:
        return _Step(file, target, "replaced", file.content)
    raise ValueError(
        f"{target} is there and holds something else; compare it with what is printed without --write, or --force "
        "replaces it and keeps it as .bak"
    )


def _present(target: Path, root: Path) -> str | None:
    """Return what is there, or None if it is no text; raise `FileNotFoundError`, or `ValueError` if it is no use."""
    try:
        behind = target.resolve()
        if behind.is_relative_to(root.resolve()):
            return target.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise ValueError(f"{target} cannot be used: {error.strerror}") from None
    except RuntimeError:
        raise ValueError(f"{target} cannot be used: it is a link that leads to itself") from None
    # In the tree of an image or of another machine: what the link means there is this machine's own here.
    raise ValueError(f"{target} leads to {behind}, outside of {root}; put a file or a directory in the link's place")


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
    _make(target.parent)
    kept, before = None, None
    if step.outcome != "written":
        before = target.stat()
        kept = _free(target)
        shutil.copy2(target, kept)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=target.parent, prefix=".mirror-", delete=False) as new:
        try:
            new.write(step.content)
            new.flush()
            if before is not None:
                _give(new.fileno(), before, target)
            os.fchmod(new.fileno(), step.file.mode if before is None else before.st_mode & 0o7777)
            os.fsync(new.fileno())
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
    return Placed(step.target, step.outcome, kept)


def _give(new: int, before: os.stat_result, target: Path) -> None:
    """Give the new file to whom the one before belongs."""
    if (before.st_uid, before.st_gid) == (os.geteuid(), os.getegid()):
        return
    try:
        os.fchown(new, before.st_uid, before.st_gid)
    except PermissionError:
        raise MirrorError(
            f"{target} belongs to user {before.st_uid} (group {before.st_gid}), who would lose it: do this as that "
            "user, or as root"
        ) from None


def _make(directory: Path) -> None:
    """Make a directory, and those above it, for everybody to read: whoever runs this may have a narrow umask."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)


def _free(target: Path) -> Path:
    """Return a name for what is there now, under which nothing is kept yet."""
    for number in itertools.count(1):
        path = target.with_name(f"{target.name}.bak{f'.{number}' if number > 1 else ''}")
        if not os.path.lexists(path):
            return path
    raise AssertionError  # there is always one more number
