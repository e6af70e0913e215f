"""`mirror doctor`: find out what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import json as json_format
import os
import resource
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror import config as configuration
from mirror.cli import banner
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mirror.doctor.case import Case
    from mirror.doctor.finding import Finding

_WIDEST = 44  # columns for what was looked at; the rest is for what was found
_COLOURS = {"ok": "green", "warning": "yellow", "failure": "bold red"}

UrlOption = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The mirror's address; else what the configuration says.")
]
RootOption = Annotated[Path, typer.Option("--root", metavar="DIR", help="Where this host's own files are looked for.")]


def doctor(
    url: UrlOption = None, config: ConfigOption = None, root: RootOption = Path("/"), json: JsonOption = False
) -> None:
    """Find out what is wrong. Looks at the mirror, upstreams, store and this host's clients. Changes nothing."""
    case = _case(url, config, root)

    # Imported only now: `mirror --help` need not load what speaks HTTP.
    from mirror import log  # noqa: PLC0415
    from mirror.doctor import examination  # noqa: PLC0415

    log.setup("error", "auto")  # what the mirror's own rooms would log is what the findings say
    with _progress(wanted=not json) as tell:
        findings = asyncio.run(examination.examine(case, tell=tell))
    if json:
        typer.echo(json_format.dumps([finding.plain() for finding in findings]))
    elif sys.stdout.isatty():
        _table(findings)
    else:
        typer.echo(plain(findings))
    raise typer.Exit(examination.code(case, findings))


def plain(findings: list[Finding]) -> str:
    """Return the findings as lines without colour: what was looked at, how it is, and what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:8}{finding.check}: {finding.subject}: {finding.found}")
        if finding.cure:
            lines.append(f"{'':8}-> {finding.cure}")
    return "\n".join([*lines, summary(findings)])


def summary(findings: list[Finding]) -> str:
    """Return how many findings there are of each level."""
    count = {level: sum(finding.level == level for finding in findings) for level in _COLOURS}
    return f"{count['failure']} failed, {count['warning']} to be looked at, {count['ok']} well"


def _case(url: str | None, path: Path | None, root: Path) -> Case:
    from mirror.config.proxies import read_proxies  # noqa: PLC0415
    from mirror.config.scalars import check_url  # noqa: PLC0415  # pydantic is slow to import
    from mirror.doctor.case import Case  # noqa: PLC0415

    if url is not None:
        try:
            url = check_url(url)
        except ValueError as error:
            raise ConfigError([f"--url: {error}"]) from None  # not repeated: it may hold a password
    if not root.is_dir():
        raise ConfigError([f"--root: {root} is no directory; name the one that has etc/ below it"])
    config, problems = None, []
    try:
        config = configuration.load(path, os.environ)
    except ConfigError as error:
        problems = error.problems
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # the mirror raises its own to that
    return Case(
        root=root,
        config=config,
        problems=tuple(problems),
        cautions=tuple(banner.warnings(config)) if config is not None else (),
        url=url,
        proxies=read_proxies(os.environ, []),
        files=None if most == resource.RLIM_INFINITY else most,
    )


@contextmanager
def _progress(*, wanted: bool) -> Iterator[Callable[[str, bool], None] | None]:
    """Show on a terminal what is still being looked at."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console  # noqa: PLC0415  # slow to import

    under_way: list[str] = []
    with Console(stderr=True).status("looking") as status:

        def tell(name: str, ended: bool) -> None:
            (under_way.remove if ended else under_way.append)(name)
            status.update(f"looking at {', '.join(under_way)}")

        yield tell


def _table(findings: list[Finding]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  # slow to import
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=SIMPLE_HEAD, pad_edge=False, leading=1)
    for column, widest in (("", None), ("looked at", _WIDEST), ("found, and what to do", None)):
        table.add_column(column, overflow="fold", max_width=widest)
    for finding in findings:
        what = Text(finding.found)
        if finding.cure:
            what.append(f"\n-> {finding.cure}", style="bold" if finding.level != "ok" else "dim")
        subject = f"{finding.check}\n{finding.subject}"
        table.add_row(Text(str(finding.level), style=_COLOURS[finding.level]), Text(subject), what)
    console = Console()
    console.print(table)
    console.print(summary(findings), highlight=False)
