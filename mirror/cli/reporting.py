"""How `mirror prefetch` and `mirror plan` tell what became of it: sums by upstream, a line for people, JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from mirror.airgap.prefetch.outcome import Fetched
from mirror.cli.display import show_budget, show_seconds
from mirror.cli.tables import Column, counted
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.prefetch.outcome import Planned
    from mirror.cli.prefetching import Result
    from mirror.upstream.budget import Budget

COLUMNS = (
    Column("UPSTREAM"),
    Column("IMAGES", right=True),
    Column("HERE", right=True),
    Column("FETCHED", right=True),
    Column("FAILED", right=True),
    Column("BYTES", right=True),
    Column("COUNTED", right=True),
    Column("WAITED", right=True),
    Column("LEFT", right=True),
)
_ALL = "all"


@dataclass(slots=True)
class Sum:
    """What images of one upstream come to. Of a plan, `fetched` and `bytes` are what would be."""

    images: int = 0
    here: int = 0
    fetched: int = 0
    failed: int = 0
    bytes: int = 0
    counted: int = 0
    waited: float = 0.0  # seconds, of all images

    def add(self, outcome: Planned | Fetched) -> None:
        """Take one image."""
        self.images += 1
        state = state_of(outcome)
        self.here += state == "here"
        self.fetched += state in ("fetched", "to fetch")
        self.failed += state == "failed"
        self.bytes += (outcome.came if isinstance(outcome, Fetched) else outcome.to_fetch).bytes
        self.counted += outcome.counted
        self.waited += outcome.waited


def state_of(outcome: Planned | Fetched) -> str:
    """Return what became of an image: `here`, `fetched` or `to fetch`, `failed`."""
    if outcome.failure is not None:
        return "failed"
    if isinstance(outcome, Fetched):
        return "fetched" if outcome.came.bytes else "here"
    return "to fetch" if outcome.to_fetch.bytes or outcome.shared.bytes else "here"


def planned_of(outcome: Planned | Fetched) -> Planned:
    """Return what an image was before its content was fetched."""
    return outcome.planned if isinstance(outcome, Fetched) else outcome


def sums_of(outcomes: Sequence[Planned | Fetched]) -> dict[str, Sum]:
    """Return the sums by upstream, sorted, and behind them those of all."""
    sums: dict[str, Sum] = {}
    everything = Sum()
    for one in outcomes:
        sums.setdefault(one.wanted.repository.namespace, Sum()).add(one)
        everything.add(one)
    return {**dict(sorted(sums.items())), _ALL: everything}


def rows_of(result: Result) -> list[tuple[str, ...]]:
    """Return the rows of `COLUMNS`; the sum of all only where it says more than the others."""
    sums = sums_of(result.outcomes)
    if len(sums) == 2:  # noqa: PLR2004  # one upstream, and all
        del sums[_ALL]
    return [
        (
            name,
            str(one.images),
            str(one.here),
            str(one.fetched),
            str(one.failed),
            show_bytes(one.bytes),
            str(one.counted),
            show_seconds(one.waited) if one.waited else "",
            show_budget(result.budgets[name]) if name in result.budgets else "",
        )
        for name, one in sums.items()
    ]


def show_end(result: Result) -> None:
    """Say how it ended where not all is well, and how to go on."""
    missing, unread = len(result.missing), len(result.inputs.unread)
    if result.interrupted:
        ended = len(result.outcomes) - sum(one.failure is not None for one in result.outcomes)
        images = f"{ended} of {counted(result.images, 'image')}" if result.images is not None else "before it began"
        came = f", {show_bytes(result.came)}" if result.came else ""
        typer.echo(
            f"interrupted: {images}{came}; what has come stays, and the same command goes on from there", err=True
        )
    elif missing or unread:
        words = [f"{counted(missing, 'image')} missing"] * bool(missing)
        words += [f"{counted(unread, 'name')} not read"] * bool(unread)
        after = "the same command tries again" if missing else "mend that, and run it again"
        typer.echo(f"{' and '.join(words)}, for the reasons above; {after}", err=True)
    if result.missing_file is not None:
        typer.echo(f"{result.missing_file} lists what is missing, for --from", err=True)
    if result.lock is not None:
        typer.echo(f"{result.lock} holds what each tag is, for --locked", err=True)


def report_of(result: Result) -> dict[str, Any]:
    """Return the parts of the JSON object."""
    sums = sums_of(result.outcomes)
    total = sums.pop(_ALL)
    return {
        "images": (_image(one) for one in result.outcomes),
        "unread": [{"text": one.text, "place": one.place, "reason": one.reason} for one in result.inputs.unread],
        "lists": [{"name": one.name, "form": one.form, "images": one.images} for one in result.inputs.sources],
        "upstreams": [
            {"upstream": name, **_sum(one), **_budget(result.budgets.get(name))} for name, one in sums.items()
        ],
        "summary": {**_sum(total), "seconds": round(result.seconds, 3), "capacity_bytes": result.capacity},
        "interrupted": result.interrupted,
        "lock": str(result.lock) if result.lock is not None else None,
        "missing": str(result.missing_file) if result.missing_file is not None else None,
    }


def _image(outcome: Planned | Fetched) -> dict[str, Any]:
    planned = planned_of(outcome)
    what = "fetched" if isinstance(outcome, Fetched) else "to_fetch"
    amount = outcome.came if isinstance(outcome, Fetched) else outcome.to_fetch
    wanted = planned.wanted
    return {
        "reference": planned.reference,
        "repository": str(wanted.repository),
        "tag": str(wanted.tag) if wanted.tag is not None else None,
        "digest": str(planned.digest) if planned.digest is not None else None,
        "media_type": planned.media_type or None,
        "platforms": list(planned.platforms),
        "referrers": planned.referrers,
        "place": wanted.place or None,
        "state": state_of(outcome).replace(" ", "_"),
        "size_bytes": planned.whole.bytes,
        "here_bytes": planned.here.bytes,
        "shared_bytes": planned.shared.bytes,
        f"{what}_bytes": amount.bytes,
        f"{what}_blobs": amount.blobs,
        f"{what}_manifests": amount.manifests,
        "counted_requests": outcome.counted,
        "waited_seconds": round(outcome.waited, 3),
        **({"pinned": outcome.pinned} if isinstance(outcome, Fetched) else {}),
        "missing": [
            {
                "what": one.what,
                "digest": str(one.digest) if one.digest else None,
                "bytes": one.size,
                "reason": one.reason,
            }
            for one in outcome.missing
        ],
        "missing_count": outcome.lacking,
        "failure": outcome.failure,
    }


def _sum(one: Sum) -> dict[str, Any]:
    return {
        "images": one.images,
        "here": one.here,
        "fetched": one.fetched,
        "failed": one.failed,
        "bytes": one.bytes,
        "counted_requests": one.counted,
        "waited_seconds": round(one.waited, 3),
    }


def _budget(budget: Budget | None) -> dict[str, Any]:
    return {
        "limit": budget.limit if budget is not None else None,
        "remaining": budget.remaining if budget is not None else None,
    }
