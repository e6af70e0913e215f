"""`mirror ratelimit`: what is left of the upstreams' rate limits, for each of the credentials."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mirror import config as configuration
from mirror.cli.opening import caution
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.tables import show_age, show_json, show_time
from mirror.config.units import show_duration
from mirror.errors import UpstreamError, UpstreamNotFound
from mirror.oci.name import Repository, Tag
from mirror.oci.namespaces import DOCKER_HUB, canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mirror.config import Config, UpstreamConfig
    from mirror.store.dealings import Dealings
    from mirror.upstream.accounts import AccountState
    from mirror.upstream.budget import Budget
    from mirror.upstream.protocol import Probe, Upstream

PATIENCE = 20.0  # seconds for each upstream, all of them at once

# Docker Hub tells of its limit on manifests only. A HEAD is not counted (docs.docker.com/docker-hub/usage).
_PREVIEW = Repository(DOCKER_HUB, "ratelimitpreview/test")
_LATEST = Tag("latest")
_HEADINGS = ("UPSTREAM", "CREDENTIALS", "LIMIT", "LEFT", "WINDOW", "COUNTED FOR")
_RESTING = {"manifest GET": "GETs of manifests rest", "*": "all rests"}


@dataclass(frozen=True, slots=True)
class Said:
    """What came of asking one upstream with one of its credentials, or what a mirror knows of them."""

    name: str
    credential: str | None  # how it is called, never what is secret of it; None: nothing is known of any
    state: AccountState | None = None
    probe: Probe | None = None
    failure: str | None = None

    @property
    def budget(self) -> Budget | None:
        """What is known to be left."""
        return self.state.budget if self.state is not None else None

    @property
    def shown(self) -> str:
        """Under whose name it was asked, for a person."""
        if self.credential is None or self.probe is None or self.probe.identity or not self.probe.offered:
            return self.credential or "-"
        return f"anonymous ({self.credential} was not asked for)"


def ratelimit(
    upstreams: Annotated[
        list[str] | None, typer.Argument(metavar="UPSTREAM", help="Which ones to ask; all if none is given.")
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="Ask nobody: show what the mirror on this store was told last.")
    ] = False,
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
    from mirror import log  # noqa: PLC0415  # a mistake in the configuration is told at once

    log.setup("error", "json" if json else "auto")  # what is the matter with credentials is in the answer
    with _book(settings.storage.path) as book:
        said = _known(settings, names, book) if cached else asyncio.run(_ask(settings, names, book))
    if json:
        show_json(upstreams=[_report(one) for one in said])
    else:
        typer.echo("\n".join(_table(said, aged=cached)))
    raise typer.Exit(1 if any(one.failure is not None for one in said) else 0)


@contextmanager
def _book(root: Path) -> Iterator[Dealings]:
    """Open what a mirror on this store knows of upstreams, where there is one; it hears what is found out here."""
    from mirror.store.dealings import FILE, Dealings  # noqa: PLC0415  # the same

    path = root / FILE
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        caution(
            f"{path} is the mirror's, and not for this user; ask as root, or as the mirror's user, to see all of it"
        )
    book = Dealings(path if os.access(path, os.R_OK | os.W_OK) else None)
    try:
        yield book
    finally:
        book.close()


def _known(settings: Config, names: Sequence[str], book: Dealings) -> list[Said]:
    from mirror.upstream.accounts import Accounts  # noqa: PLC0415  # the same

    said = []
    for name in names:
        accounts = Accounts(name, name, book=book, clock=time.time)
        known = {state.credential: state for state in accounts.states()}
        shown = _names(settings, name) or known
        said += [Said(name, credential, known.get(credential)) for credential in shown] or [Said(name, None)]
    return said


def _names(settings: Config, name: str) -> list[str]:
    """Return what the credentials of an upstream are called, as written; none: they show once they are used."""
    from mirror.upstream.accounts import ANONYMOUS  # noqa: PLC0415  # the same
    from mirror.upstream.logins import named_after  # noqa: PLC0415  # the same

    upstream = settings.upstreams[name]
    if upstream.credentials:
        return [credential.name for credential in upstream.credentials]
    if upstream.username is not None:
        return [named_after(upstream.username)]
    return [] if upstream.exec or name in settings.named_in_files else [ANONYMOUS]


async def _ask(settings: Config, names: Sequence[str], book: Dealings) -> list[Said]:
    from mirror.upstream.several_logins import each_alone  # noqa: PLC0415  # the same

    asked = [_ask_one(settings, one, book) for name in names for one in each_alone(settings.upstreams[name])]
    return await asyncio.gather(*asked)


async def _ask_one(settings: Config, upstream: UpstreamConfig, book: Dealings) -> Said:
    from mirror.upstream.registries import Registries  # noqa: PLC0415  # the same

    alone = replace(settings, upstreams={upstream.name: upstream})
    registries = Registries(alone, instance=secrets.token_hex(8), request_id=lambda: None, book=book)
    try:
        return await _answer(registries.of(upstream.name))
    finally:
        await registries.close()


async def _answer(upstream: Upstream) -> Said:
    probe = failure = None
    try:
        probe = await upstream.probe(patience=PATIENCE)
        if upstream.namespace == DOCKER_HUB:
            with suppress(UpstreamNotFound):  # what stands in for it by `url` need not have that image
                await upstream.head(_PREVIEW, _LATEST, patience=PATIENCE)
    except UpstreamError as error:
        failure = str(error).removeprefix(f"{upstream.namespace}: ")
    state = next(iter(upstream.accounts.states()), None)
    return Said(upstream.namespace, state.credential if state is not None else None, state, probe, failure)


def _report(said: Said) -> dict[str, Any]:
    state = said.state
    return {
        "upstream": said.name,
        "credential": said.credential,
        "user": said.probe.user if said.probe is not None else None,
        "authenticated": None
        if said.probe is None and said.failure is None
        else bool(said.probe and said.probe.identity),
        **_budget(said.budget),
        "others": [_budget(other) for other in state.others] if state is not None else [],
        "rests_until": {kind: show_time(until) for kind, until in state.rests.items()} if state is not None else {},
        "set_aside": None
        if state is None or state.aside is None
        else {"why": state.aside, "until": show_time(state.aside_until)},
        "failure": said.failure,
    }


def _budget(budget: Budget | None) -> Mapping[str, Any]:
    return {
        "limit": budget.limit if budget is not None else None,
        "remaining": budget.remaining if budget is not None else None,
        "window_seconds": budget.window if budget is not None else None,
        "resets_at": budget.resets_at if budget is not None else None,
        "source": budget.source if budget is not None else None,
        "said_at": show_time(budget.at) if budget is not None else None,
    }


def _table(said: Sequence[Said], *, aged: bool) -> list[str]:
    """Return the lines of a table; a failure, or silence, takes the place of the figures."""
    now = time.time()
    rows = [(*_HEADINGS, *(["SAID"] if aged else []), "STATE")]
    for one in said:
        rows.append((one.name, one.shown, *_figures(one, now, aged=aged)))
        others = one.state.others if one.state is not None else ()
        rows += [("", "", *_numbers(other, now, aged=aged), "for another address, earlier") for other in others]
    if all(row[-1] == "" for row in rows[1:] if len(row) == len(rows[0])):  # nothing is the matter
        rows = [row[:-1] if len(row) == len(rows[0]) else row for row in rows]
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    widths += [max(len(row[column]) for row in full) for column in range(2, len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def _figures(said: Said, now: float, *, aged: bool) -> tuple[str, ...]:
    state = _state(said.state)
    if said.failure is not None:
        return (f"failed: {said.failure}",)
    if said.budget is None or not said.budget.speaks:
        nothing = "nothing is known yet" if aged else "says nothing about limits"
        return (f"{nothing}; {state}" if state else nothing,)
    return (*_numbers(said.budget, now, aged=aged), state)


def _numbers(budget: Budget, now: float, *, aged: bool) -> tuple[str, ...]:
    return (
        "-" if budget.limit is None else str(budget.limit),
        "-" if budget.remaining is None else str(budget.remaining),
        "-" if budget.window is None else show_duration(budget.window),
        budget.source or "-",
        *([show_age(budget.at, now)] if aged else []),
    )


def _state(state: AccountState | None) -> str:
    if state is None:
        return ""
    parts = [f"{_RESTING.get(kind, f'{kind} rests')} until {show_time(until)}" for kind, until in state.rests.items()]
    if state.aside is not None:
        parts.insert(0, f"set aside until {show_time(state.aside_until)}: {state.aside}")
    return "; ".join(parts)
