"""How commands show what they found: a table on a terminal, aligned text in a pipe, one JSON object with `--json`."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

_STEPS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_AT_ONCE = 1000  # lines that are written together
_MOST_ROWS = 2000  # that rich lays out; more are aligned text on a terminal too
_GAP = 3  # between two columns of rich's
_LEAST_LAST = 24  # characters that the last column has to have
_encode = json.JSONEncoder(ensure_ascii=False).encode  # made once; `json.dumps` would make one for every item


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; numbers and sizes stand at the right."""

    title: str
    right: bool = False


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a terminal with a last column that folds, where that leaves it enough room."""
    if sys.stdout.isatty() and len(rows) <= _MOST_ROWS and _lay_out(columns, rows):
        return
    lines = iter(aligned(columns, rows))
    while some := list(islice(lines, _AT_ONCE)):
        sys.stdout.write("\n".join(some) + "\n")
    sys.stdout.flush()


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Yield the lines of a table as plain text: cells are two blanks apart, an empty one is `-`."""
    widths = [max(len(column.title), 1) for column in columns]
    if rows:
        longest = (max(map(len, cells)) for cells in zip(*rows, strict=True))
        widths = [max(width, length) for width, length in zip(widths, longest, strict=True)]
    cell = "%{}{}s"
    form = "  ".join(
        cell.format("" if column.right else "-", width) for column, width in zip(columns, widths, strict=True)
    )
    yield (form % tuple(column.title for column in columns)).rstrip()
    for row in rows:
        yield (form % tuple([text or "-" for text in row])).rstrip()


def show_json(**parts: object) -> None:
    """Print one JSON object on one line. A part that is an iterator is written as a list, piece by piece."""
    out = sys.stdout
    for number, (key, value) in enumerate(parts.items()):
        out.write(f"{', ' if number else '{'}{json.dumps(key)}: ")
        if hasattr(value, "__next__"):
            _write_list(value)  # type: ignore[arg-type]
        else:
            out.write(_encode(value))
    out.write("}\n")
    out.flush()


def some_of(words: Sequence[str], most: int = 2) -> str:
    """Write a list of which there may be many into one cell: `linux/amd64, linux/arm64 (+6 more)`."""
    more = len(words) - most
    return ", ".join(words[:most]) + (f" (+{more} more)" if more > 0 else "")


def show_age(at: float | None, now: float | None = None) -> str:
    """Write how long ago `at` (seconds since the epoch) was: `3 min ago`; empty where it is not known."""
    if not at:
        return ""
    seconds = (time.time() if now is None else now) - at
    for size, unit in _STEPS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "now"


def show_time(at: float | None) -> str | None:
    """Write a time as ISO 8601 does, in UTC: `2026-11-21T17:05:00Z`; None where it is not known."""
    if not at:
        return None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def counted(number: int, noun: str) -> str:
    """Write `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@contextmanager
def progress(total: int, *, hidden: bool) -> Iterator[Callable[[], None]]:
    """Show on a terminal how far it is; what is yielded is to be called for each of `total` things that are done."""
    if hidden or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


@contextmanager
def busy(what: str, *, hidden: bool) -> Iterator[None]:
    """Show on a terminal that something takes its time."""
    if hidden or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import

    with Console(stderr=True).status(what):
        yield


@contextmanager
def bytes_progress(total: int, *, hidden: bool) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many of `total` bytes are done, how fast, and how long it will take; see `progress`."""
    if hidden or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _write_list(items: Iterable[Mapping[str, Any]]) -> None:
    out = sys.stdout
    out.write("[")
    texts = map(_encode, items)
    between = ""
    while some := list(islice(texts, _AT_ONCE)):
        out.write(between + ", ".join(some))
        between = ", "
    out.write("]")


def _lay_out(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> bool:
    """Print a table that fits the terminal; False, and nothing is printed, where it would not be readable."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # slow to import
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    needed = _GAP * len(columns)
    for number, column in enumerate(columns):
        last = number == len(columns) - 1
        longest = max([len(column.title), *(len(row[number]) for row in rows)])
        needed += min(longest, _LEAST_LAST) if last else longest
        table.add_column(
            column.title.lower(), justify="right" if column.right else "left", no_wrap=not last, overflow="fold"
        )
    if needed > console.width:
        return False
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    return True
