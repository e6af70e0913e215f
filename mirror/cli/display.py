"""What a prefetch shows while it works: bars on a terminal, a line for each image that has ended elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from mirror.airgap.prefetch.outcome import Ended, Fetched, Waiting
from mirror.cli.tables import counted
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console, RenderableType
    from rich.table import Table

    from mirror.airgap.prefetch.outcome import Event, Planned
    from mirror.cli.tally import Running, Tally
    from mirror.upstream.budget import Budget

_REFRESH = 4  # times a second
_WIDE, _MIDDLE = 100, 60  # columns of a terminal: below, a bar is left out, then the rate
_BAR = 20  # columns
_LEAST_NAME = 12  # columns
_BESIDES = 4  # lines that are no images, and the one of the cursor
_MINUTE, _HOUR = 60, 3600  # seconds


@contextmanager
def display(
    tally: Tally, budgets: Callable[[], Mapping[str, Budget]], *, plan: bool, hidden: bool
) -> Iterator[Callable[[Event], None]]:
    """Show what goes on; what is yielded hears the prefetch. `budgets` says what is left of the upstreams' limits.

    On standard error: bars if it is a terminal, and failures and waits in any case. On standard output: a line for each
    image that is here, but not beside bars on the same terminal. A `plan` has neither. `hidden` shows nothing.
    """
    if hidden:
        yield tally.hear
        return
    if not sys.stderr.isatty():
        yield Lines(tally, results=True).hear
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import
    from rich.live import Live  # noqa: PLC0415

    from mirror import log  # noqa: PLC0415

    console = Console(stderr=True)
    screen = Screen(tally, budgets, console, plan=plan)
    # Standard output is left alone: it may be a pipe, and what is written to it no part of the picture.
    live = Live(
        get_renderable=screen.render,
        console=console,
        refresh_per_second=_REFRESH,
        transient=True,
        redirect_stdout=False,
    )
    try:
        with live:
            log.setup("warning")  # its lines go above the bars, as all that is written to standard error
            yield Lines(tally, results=not sys.stdout.isatty(), waits=False).hear
    finally:
        log.setup("warning")


class Lines:
    """Writes a line for each image that has ended: to standard output what is here, to standard error what failed."""

    def __init__(self, tally: Tally, *, results: bool, waits: bool = True) -> None:
        self._tally = tally
        self._results = results
        self._waits = waits

    def hear(self, event: Event) -> None:
        """Take what a prefetch says."""
        begun = self._tally.running.get(event.outcome.reference) if isinstance(event, Ended) else None
        self._tally.hear(event)
        if isinstance(event, Ended):
            self._end(event.outcome, begun)
        elif isinstance(event, Waiting) and self._waits:
            at = time.strftime("%H:%M:%S", time.localtime(event.until))
            _write(f"waiting  {event.namespace}: {event.reason}; it goes on at {at}", err=True)

    def _end(self, outcome: Planned | Fetched, begun: Running | None) -> None:
        if outcome.failure is not None:
            _write(f"failed   {outcome.reference}: {outcome.failure}", err=True)
        elif self._results and isinstance(outcome, Fetched):
            seconds = self._tally.clock() - begun.since if begun is not None else 0.0
            _write(f"{'fetched' if outcome.came.bytes else 'here':<8} {outcome.reference}{_how(outcome, seconds)}")


def _write(line: str, *, err: bool = False) -> None:
    """Write a line; where nobody reads any more, or the disk behind it is full, the work goes on without it."""
    with suppress(OSError):
        typer.echo(line, err=err)


def _how(outcome: Fetched, seconds: float) -> str:
    if not outcome.came.bytes:
        return ""
    return f"  {show_bytes(outcome.came.bytes)} in {show_seconds(seconds)}"


class Screen:
    """Draws the picture: a line for each image on which work goes on, and below one for all of them."""

    def __init__(
        self, tally: Tally, budgets: Callable[[], Mapping[str, Budget]], console: Console, *, plan: bool = False
    ) -> None:
        self._tally = tally
        self._budgets = budgets
        self._console = console
        self._plan = plan  # no bytes will come

    def render(self) -> RenderableType:
        """Return the picture of this moment."""
        from rich.console import Group  # noqa: PLC0415  # slow to import
        from rich.text import Text  # noqa: PLC0415

        width, height = self._console.width, self._console.height
        running = list(self._tally.running.values())
        shown = running[: max(1, height - _BESIDES - len(self._tally.waiting))]
        lines: list[RenderableType] = [self._images(shown, width)] if shown else []
        if len(running) > len(shown):
            lines.append(Text(f"and {len(running) - len(shown)} more", style="dim"))
        waiting = [
            Text(f"{one.namespace}: {one.reason}; it goes on in {show_seconds(one.until - time.time())}")
            for one in list(self._tally.waiting.values())
        ]
        budget = ", ".join(f"{name} {show_budget(one)}" for name, one in self._budgets().items())
        below = [*waiting, Text(self._sum(width), style="bold"), *([Text(f"left: {budget}")] if budget else [])]
        for text in below:
            text.no_wrap, text.overflow = True, "ellipsis"
        return Group(*lines, *below)

    def _images(self, running: list[Running], width: int) -> Table:
        from rich.progress_bar import ProgressBar  # noqa: PLC0415  # slow to import
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        now = self._tally.clock()
        table = Table.grid(padding=(0, 1))
        wide, middle = width >= _WIDE, width >= _MIDDLE
        rows = [(one, show_part(one), show_bytes(int(one.rate.of(one.came, now))) + "/s") for one in running]
        beside = max(len(part) for _, part, _ in rows) + 1
        if middle:
            beside += max(len(rate) for _, _, rate in rows) + 1
        if wide:
            beside += _BAR + 1
        names = max(_LEAST_NAME, width - beside)
        longest = min(names, max(len(one.reference) for one in running))
        table.add_column(width=longest, no_wrap=True)
        for one, part, rate in rows:
            cells: list[RenderableType] = [Text(shortened(one.reference, longest))]
            if wide:
                total = float(one.expected) if one.expected is not None else None
                cells.append(ProgressBar(total=total or 1.0, completed=one.came, width=_BAR, pulse=total is None))
            cells.append(Text(part, justify="right", no_wrap=True))
            if middle:
                cells.append(Text(rate, justify="right", no_wrap=True))
            table.add_row(*cells)
        return table

    def _sum(self, width: int) -> str:
        tally = self._tally
        images = str(tally.ended) if tally.images is None else f"{tally.ended}/{counted(tally.images, 'image')}"
        words = [images]
        if tally.failed:
            words.append(f"{tally.failed} failed")
        more = "" if tally.complete else "+"  # what the other images need is not known yet
        if self._plan:
            return ", ".join([*words, f"{show_bytes(tally.expected)}{more} to fetch"])
        rate = tally.rate()
        left = tally.left(rate)
        words.append(f"{show_bytes(tally.came)} of {show_bytes(tally.expected)}{more}")
        if width >= _MIDDLE:
            words.append(f"{show_bytes(int(rate))}/s")
            words.append(f"{'' if tally.complete else 'about '}{show_seconds(left)} left" if left is not None else "")
        return ", ".join(word for word in words if word)


def shortened(name: str, width: int) -> str:
    """Cut a reference to `width` letters: its end, which says most, stays."""
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]


def show_part(running: Running) -> str:
    """Write how much of an image is here: `12.0 MiB of 67.2 MiB`."""
    if running.expected is None:
        return "asking"
    return f"{show_bytes(max(0, running.came))} of {show_bytes(running.expected)}"


def show_budget(budget: Budget) -> str:
    """Write what is left of a limit: `76 of 100`."""
    if budget.remaining is None:
        return f"? of {budget.limit}"
    return str(budget.remaining) if budget.limit is None else f"{budget.remaining} of {budget.limit}"


def show_seconds(seconds: float) -> str:
    """Write how long something takes: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
