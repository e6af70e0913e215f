"""What commands are told to work on: images as arguments, lists in files or standard input, the mirror's history."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from mirror.cli.tables import counted
from mirror.config.units import parse_duration
from mirror.errors import ListMalformed, MirrorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mirror.airgap.wanted import ImageList, Unread, Wanted
    from mirror.store.layout import Layout

STDIN = "-"
_LISTS = {".txt", ".yaml", ".yml", ".json", ".lock", ".list"}  # what the name of a list ends in, and hardly an image's
_NOTHING = (
    "no image is named: name some, as nginx:1.27 or 'quay.io/org/app:>=1.2 <2', or a list by --from FILE, or - for "
    "standard input"
)

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE",
        help="As nginx:1.27, quay.io/org/app@sha256:…, or tags by a glob or a range: 'app:v1.*', 'app:>=1.2 <2'. "
        "- is a list on standard input, which is read as well where nothing is named and it is no terminal.",
    ),
]
FromOption = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        "-f",
        metavar="FILE",
        help="A list of images in any form: text, Kubernetes, Helm, compose, Dockerfile, kustomization, skopeo, "
        "regsync, hauler, zarf and others, told by its content; - is standard input. May be repeated.",
    ),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arg",
        metavar="NAME=VALUE",
        help="What a list leaves open: ${NAME} in Dockerfiles and compose files, ###ZARF_PKG_TMPL_NAME### in zarf "
        'packages, {{env "NAME"}} in regsync. The environment is not looked at. May be repeated.',
    ),
]
ServedOption = Annotated[
    str | None,
    typer.Option("--served-since", metavar="TIME", help="Everything that this mirror has served in that time, as 30d."),
]


@dataclass(frozen=True, slots=True)
class Source:
    """One list that was read. `form` says for a person as what: `Kubernetes objects`."""

    name: str
    form: str
    images: int

    def __str__(self) -> str:
        return f"{self.name}: {self.form}, {counted(self.images, 'image')}"


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was asked for: each once, in the order in which it was."""

    wanted: tuple[Wanted, ...]
    unread: tuple[Unread, ...] = ()
    sources: tuple[Source, ...] = ()
    since: float | None = None  # seconds since the epoch: and what was served from then on

    def with_history(self, layout: Layout) -> Inputs:
        """Add what this mirror has served, if that was asked for. Raise `typer.BadParameter` if nothing is left."""
        if self.since is None:
            return self
        from mirror.airgap.history import served  # noqa: PLC0415  # not needed to print help

        found = served(layout, self.since)
        wanted = _once([*self.wanted, *found])
        if not wanted and not self.unread:
            raise typer.BadParameter("this mirror has served nothing in that time; name images, or a longer time")
        source = Source("the history of this mirror", "what it has served", len(found))
        return Inputs(wanted, self.unread, (*self.sources, source))


def read_inputs(
    images: Sequence[str] | None,
    files: Sequence[str] | None,
    served: str | None,
    *,
    default: str,
    values: Sequence[str] | None,
) -> Inputs:
    """Read everything that was named; `default` is the namespace of names without a host.

    Raise `typer.BadParameter` for what was named wrongly, `ListMalformed` for lists in no form that is known: all of
    them at once.
    """
    words = list(images or ())
    names = [*(files or ()), *(STDIN for word in words if word == STDIN)]
    words = [word for word in words if word != STDIN]
    since = _since(served)
    if not words and not names and since is None:
        if not _waiting():
            raise typer.BadParameter(_NOTHING)
        names = [STDIN]
    if names.count(STDIN) > 1:
        raise typer.BadParameter("standard input can be read once: name - once")
    given = _values(values)
    found = _references(words, default)
    lists = _lists(names, default, given, alone=not words and since is None)
    wanted = _once([*found, *(item for one in lists for item in one.wanted)])
    unread = tuple(item for one in lists for item in one.unread)
    if not wanted and not unread and since is None:
        raise typer.BadParameter(f"{' and '.join(map(_called, names))}: no image is in there; name another list")
    sources = [Source(_called(name), one.form, len(one.wanted)) for name, one in zip(names, lists, strict=True)]
    return Inputs(wanted, unread, tuple(sources), since)


def _since(served: str | None) -> float | None:
    if served is None:
        return None
    try:
        return max(0.0, time.time() - parse_duration(served))
    except ValueError as error:
        raise typer.BadParameter(f"--served-since {served} {error}") from None


def _waiting() -> bool:
    """Say whether standard input is there to be read, and no person would have to type it."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def _values(values: Sequence[str] | None) -> dict[str, str]:
    given = {}
    for text in values or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--arg {text!r} is no NAME=VALUE; write for example --arg VERSION=1.27")
        given[name] = value
    return given


def _references(words: Iterable[str], default: str) -> list[Wanted]:
    from mirror.airgap.lists.read import read_reference  # noqa: PLC0415  # not needed to print help

    found, problems = [], []
    for word in words:
        if Path(word).suffix in _LISTS and Path(word).is_file():
            problems.append(f"{word} is a file; --from {word} reads it as a list of images")
            continue
        try:
            found.append(read_reference(word, "the command line", default=default))
        except MirrorError as error:
            problems.append(str(error))
    if problems:
        raise typer.BadParameter("\n".join(problems))
    return found


def _lists(names: Sequence[str], default: str, values: Mapping[str, str], *, alone: bool) -> list[ImageList]:
    from mirror.airgap.lists.read import read  # noqa: PLC0415  # not needed to print help

    lists, problems = [], []
    for name in names:
        try:
            data = content(name)
            if alone and list(names) == [STDIN] and not data.strip():  # as where a timer starts the command
                raise typer.BadParameter(f"standard input is empty, and {_NOTHING}")
            lists.append(read(data, _called(name), default=default, arguments=values))
        except ListMalformed as error:
            problems.append(str(error))
        except IsADirectoryError:
            problems.append(f"{name} is a directory; {_of_directory(Path(name))}")
        except OSError as error:
            problems.append(f"{_called(name)} cannot be read: {error.strerror or error}")
    if problems:
        raise ListMalformed("\n".join(problems))
    return lists


def _of_directory(path: Path) -> str:
    """Say what would be right in place of a directory."""
    if (path / "Chart.yaml").exists():
        return f"render the chart and read that: helm template {path} | mirror prefetch -"
    if any((path / name).exists() for name in ("kustomization.yaml", "kustomization.yml", "Kustomization")):
        return f"build it and read that: kustomize build {path} | mirror prefetch -"
    return "name a file in it"


def content(name: str) -> bytes:
    """Return what a file holds, or standard input; no more than a list may have, and one byte. May raise `OSError`."""
    from mirror.airgap.lists.documents import MOST_BYTES  # noqa: PLC0415  # not needed to print help

    if name == STDIN:
        return _all(sys.stdin.buffer, MOST_BYTES + 1)
    with closing(Path(name).open("rb")) as file:
        return _all(file, MOST_BYTES + 1)


def _all(file: BinaryIO, most: int) -> bytes:
    """Read up to `most` bytes; a pipe gives them in pieces."""
    pieces, left = [], most
    while left and (piece := file.read(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _called(name: str) -> str:
    return "standard input" if name == STDIN else name


def _once(wanted: Iterable[Wanted]) -> tuple[Wanted, ...]:
    """Drop what was asked for before, wherever that stands."""
    found: dict[tuple[str, frozenset[object]], Wanted] = {}
    for one in wanted:
        found.setdefault((str(one), frozenset(one.platforms)), one)
    return tuple(found.values())
