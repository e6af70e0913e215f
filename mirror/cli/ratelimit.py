"""`mirror ratelimit`: ask the upstreams what is left of their rate limits."""

from __future__ import annotations

import asyncio
import json as json_format
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror import config as configuration
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.config.units import show_duration
from mirror.errors import UpstreamError, UpstreamNotFound
from mirror.oci.name import Repository, Tag
from mirror.oci.namespaces import DOCKER_HUB, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mirror.config import Config
    from mirror.upstream.budget import Budget
    from mirror.upstream.protocol import Probe, Upstream

PATIENCE = 20.0  # seconds for each upstream, all of them at once

# Docker Hub tells of its limit on manifests only. A HEAD is not counted (docs.docker.com/docker-hub/usage).
_PREVIEW = Repository(DOCKER_HUB, "ratelimitpreview/test")
_LATEST = Tag("latest")
_HEADINGS = ("UPSTREAM", "CREDENTIALS", "LIMIT", "LEFT", "WINDOW", "COUNTED FOR")


@dataclass(frozen=True, slots=True)
class Said:
    """What came of asking one upstream."""

    name: str
    probe: Probe | None = None
    budget: Budget | None = None
    failure: str | None = None

    @property
    def credentials(self) -> str:
        """Under whose name it was asked, for a person. Never what a secret is."""
        if self.probe is None or not self.probe.offered:
            return "anonymous" if self.probe is not None else "?"
        who = self.probe.user or "a token"
        return who if self.probe.identity else f"anonymous ({who} was not asked for)"


def ratelimit(
    upstreams: Annotated[
        list[str] | None, typer.Argument(metavar="UPSTREAM", help="Which ones to ask; all if none is given.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what the upstreams say is left of their rate limits. Asking is not counted."""
    settings = configuration.load(config, os.environ)
    names = list(dict.fromkeys(canonical(name) for name in upstreams or settings.upstreams))
    for name in names:
        if name not in settings.upstreams:
            known = ", ".join(sorted(settings.upstreams))
            raise typer.BadParameter(f"{name} is not among the configured upstreams; name one of these: {known}")
    said = asyncio.run(_ask(settings, names))
    if json:
        typer.echo(json_format.dumps({"upstreams": [_report(one) for one in said]}))
    else:
        typer.echo("\n".join(_table(said)))
    raise typer.Exit(1 if any(one.failure is not None for one in said) else 0)


async def _ask(settings: Config, names: Iterable[str]) -> list[Said]:
    from mirror.upstream.registries import Registries  # noqa: PLC0415  # a mistake in the configuration is told at once

    registries = Registries(settings, instance=secrets.token_hex(8), request_id=lambda: None)
    try:
        return await asyncio.gather(*(_ask_one(registries.of(name)) for name in names))
    finally:
        await registries.close()


async def _ask_one(upstream: Upstream) -> Said:
    probe = None
    try:
        probe = await upstream.probe(patience=PATIENCE)
        if upstream.namespace == DOCKER_HUB:
            with suppress(UpstreamNotFound):  # what stands in for it by `url` need not have that image
                await upstream.head(_PREVIEW, _LATEST, patience=PATIENCE)
    except UpstreamError as error:
        return Said(upstream.namespace, probe, upstream.budget, str(error).removeprefix(f"{upstream.namespace}: "))
    return Said(upstream.namespace, probe, upstream.budget)


def _report(said: Said) -> dict[str, Any]:
    budget = said.budget
    return {
        "upstream": said.name,
        "user": said.probe.user if said.probe is not None else None,
        "authenticated": said.probe is not None and said.probe.identity,
        "limit": budget.limit if budget is not None else None,
        "remaining": budget.remaining if budget is not None else None,
        "window_seconds": budget.window if budget is not None else None,
        "resets_at": budget.resets_at if budget is not None else None,
        "source": budget.source if budget is not None else None,
        "failure": said.failure,
    }


def _table(said: Sequence[Said]) -> list[str]:
    """Return the lines of a table; a failure, or silence, takes the place of the figures."""
    rows = [(one.name, one.credentials, *_figures(one)) for one in said]
    full = [row for row in (_HEADINGS, *rows) if len(row) == len(_HEADINGS)]
    heads = [row[:2] for row in (_HEADINGS, *rows)]
    widths = [max(len(row[0]) for row in heads), max(len(row[1]) for row in heads)]
    widths += [max(len(row[column]) for row in full) for column in range(2, len(_HEADINGS))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in (_HEADINGS, *rows)
    ]


def _figures(said: Said) -> tuple[str, ...]:
    if said.failure is not None:
        return (f"failed: {said.failure}",)
    budget = said.budget
    if budget is None or (budget.limit is None and budget.remaining is None):
        return ("says nothing about limits",)
    return (
        "-" if budget.limit is None else str(budget.limit),
        "-" if budget.remaining is None else str(budget.remaining),
        "-" if budget.window is None else show_duration(budget.window),
        budget.source or "-",
    )
