"""What a mirror on this store has learnt of its upstreams: limits, rests, who is left alone. It is read, not opened."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from mirror.config.values import ITSELF
from mirror.doctor.finding import About, Finding
from mirror.store.damage import is_damage
from mirror.store.dealings import FILE, Dealings
from mirror.upstream.accounts import COUNTED
from mirror.upstream.circuit import state_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from mirror.config import BudgetRule, EndpointConfig, UpstreamConfig
    from mirror.doctor.case import Case
    from mirror.upstream.accounts import AccountState
    from mirror.upstream.budget import Budget

_KINDS = ("budget", "rest", "aside", "circuit")
_LOW = 0.20  # share of a limit; with less left nothing is prefetched unless `budget` says otherwise
_UNTOLD = 60.0  # seconds for which a limit is believed whose window nobody told
_MORE = "wait, or give {entry} credentials that have more: those who log in may ask more often, and several add up"


def read(case: Case) -> tuple[Dealings, list[Finding]]:
    """Return a copy of what is known, and what is wrong with it. Blocks."""
    book = Dealings(None)
    if case.config is None or not case.here:
        return book, []
    path = case.config.storage.path.absolute() / FILE
    about = About("storage", str(path))
    try:
        rows = _rows(path) if os.access(path, os.R_OK) else []  # who may not look hears of it from `storage`
    except sqlite3.Error as error:
        cure = "ask again, as the mirror's user"
        if is_damage(error):
            cure = "restart the mirror: it puts the file aside, and learns all but the quarantines anew"
        return book, [
            about.warning(f"what is known of upstreams (limits, rests, quarantines) cannot be read: {error}", cure)
        ]
    for kind, key, text in rows:
        try:
            value = json.loads(text)
        except ValueError:
            continue  # as the mirror reads it
        if isinstance(value, dict):
            book.put(kind, key, value)
    return book, []


def _rows(path: Path) -> list[tuple[str, str, str]]:
    # A mirror that runs may be writing; where none does, nothing must be made beside the file.
    alone = not path.with_name(path.name + "-wal").exists()
    address = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    database = sqlite3.connect(address, uri=True, timeout=1.0)
    try:
        wanted = ", ".join("?" * len(_KINDS))
        found = database.execute(
            f"SELECT kind, key, value FROM dealing WHERE kind IN ({wanted}) AND value IS NOT NULL",  # noqa: S608
            _KINDS,
        )
        return found.fetchall()
    finally:
        database.close()


def left(budget: Budget | None, now: float) -> Budget | None:
    """Return a budget that still says something; None: there is none, or its window is over."""
    if budget is None or budget.remaining is None:
        return None
    ends = budget.ends if budget.ends is not None else budget.at + _UNTOLD
    return budget if now < ends else None


def saving(
    about: About, state: AccountState | None, entry: str, rules: Sequence[BudgetRule], now: float
) -> Finding | None:
    """Return what there is to say of a limit that is, or soon will be, used up; None: nothing.

    `rules` are those by which the mirror saves.
    """
    if state is None:
        return None
    budget = left(state.budget, now)
    rest = state.rests.get(COUNTED)
    cure = _MORE.format(entry=entry)
    if budget is not None and budget.remaining is not None and budget.remaining <= 0:
        ends = f", {shown(budget.ends)} at the latest" if budget.ends is not None else ""
        return about.warning(
            f"0 of {budget.limit or '?'} requests are left{_source(budget)}: it sends nothing new until its limit "
            f"begins anew{ends}; what is cached is served",
            cure,
        )
    if rest is not None:
        return about.warning(
            f"it limits requests: manifests that are not cached rest until {shown(rest)}; what is cached is served",
            cure,
        )
    share = budget.share(now) if budget is not None else None
    if budget is not None and share is not None and share < _LOW:
        saves = "so the mirror saves, as its `budget` says"
        if not any(share < rule.below for rule in rules):
            saves = "and the mirror saves nothing, as its `budget` says"
        return about.warning(
            f"only {budget.remaining} of {budget.limit} requests are left{_source(budget)}, {saves}", cure
        )
    return None


def aside(about: About, state: AccountState | None) -> Finding | None:
    """Return what there is to say of credentials that are good, and that the mirror does not use; None: it does."""
    if state is None or state.aside is None:
        return None
    until = f" until {shown(state.aside_until)}" if state.aside_until is not None else ""
    return about.warning(
        f"they are good now, and the mirror has set them aside{until}: {state.aside}",
        "nothing: it uses them again by itself then; a reload of its configuration (SIGHUP) has it try them at once",
    )


def circuits(upstream: UpstreamConfig, book: Dealings, now: float) -> list[Finding]:
    """Return which endpoints of an upstream the mirror leaves alone, and why."""
    findings = []
    for number, endpoint in enumerate(upstream.endpoints):
        row = book.get("circuit", f"{upstream.name} {ITSELF if endpoint.itself else endpoint.label}") or {}
        if state_of(row) != "closed":
            about = About("upstreams", f"{upstream.name} at {ITSELF if endpoint.itself else endpoint.label}")
            findings.append(_circuit(about, endpoint, f"upstreams.{upstream.name}.endpoints[{number}]", row, now))
    return findings


def _circuit(about: About, endpoint: EndpointConfig, entry: str, row: Mapping[str, Any], now: float) -> Finding:
    why = str(row.get("why") or "it failed")
    if state_of(row) == "half-open":
        what = "the mirror tries it with one request at a time"
    elif row["until"] > now:
        what = f"the mirror leaves it alone until {shown(row['until'])}"
    else:
        what = "the mirror leaves it alone until the next pull, with which it is tried again"
    if row.get("lied"):
        gone = "" if endpoint.itself else f", or take {entry} away"
        return about.warning(
            f"{what}: it sent something else than was asked for ({why})",
            f"no client got the whole of it; have whoever runs it clear its cache and look at its disk{gone}",
        )
    return about.warning(
        f"{what}: {why}",
        "see to what failed; the others are asked meanwhile, and this one again by itself once it answers",
    )


def shown(at: float) -> str:
    """Return a time, given in seconds since the epoch, for a person."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _source(budget: Budget) -> str:
    return f" for {budget.source}" if budget.source is not None else ""
