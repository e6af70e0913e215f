"""`mirror plan`: what a prefetch would fetch, without any content."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mirror.cli.inputs import FromOption, ImagesArgument, ServedOption, ValueOption, read_inputs
from mirror.cli.opening import caution
from mirror.cli.options import ConfigOption, JsonOption  # noqa: TC001  # typer reads it at run time
from mirror.cli.ordering import (
    BudgetOption,
    FailFastOption,
    JobsOption,
    LockedOption,
    LockOption,
    MissingOption,
    PlatformOption,
    ReferrersOption,
    order,
)
from mirror.cli.prefetching import Files, carry_out
from mirror.cli.tables import Column, counted, show, show_json, some_of
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.prefetch.outcome import Planned
    from mirror.cli.prefetching import Result

_COLUMNS = (
    Column("IMAGE"),
    Column("DIGEST"),
    Column("SIZE", right=True),
    Column("HERE", right=True),
    Column("SHARED", right=True),
    Column("TO FETCH", right=True),
    Column("PLATFORMS"),
)
_SHORT = 12  # digits of a digest in a table


def plan(  # noqa: PLR0917  # typer passes them by name
    images: ImagesArgument = None,
    files: FromOption = None,
    served: ServedOption = None,
    platform: PlatformOption = None,
    referrers: ReferrersOption = "all",
    jobs: JobsOption = 4,
    fail_fast: FailFastOption = False,
    budget: BudgetOption = "100%",
    lock: LockOption = None,
    locked: LockedOption = None,
    missing: MissingOption = None,
    values: ValueOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a prefetch would fetch. Manifests are fetched to know it, and no other content."""
    result = carry_out(
        config,
        lambda settings: read_inputs(images, files, served, default=settings.default_upstream, values=values),
        lambda follow: order(
            platform=platform,
            referrers=referrers,
            jobs=jobs,
            fail_fast=fail_fast,
            budget=budget,
            locked=follow,
            amend=lock is not None,
        ),
        Files(lock, locked, missing),
        plan=True,
        as_json=json,
    )
    tell(result, as_json=json)
    raise typer.Exit(result.code)


def tell(result: Result, *, as_json: bool) -> None:
    """Print a plan: a line for each image, and the sums. What failed has been named."""
    from mirror.cli.reporting import planned_of, report_of, show_end, sums_of  # noqa: PLC0415  # not needed for help

    if as_json:
        show_json(**report_of(result))
        return
    planned = [planned_of(one) for one in result.outcomes if one.failure is None]
    if planned:
        show(_COLUMNS, [_row(one) for one in planned])
        typer.echo("")
        _tell_sums(planned, result)
    made = sums_of(result.outcomes)["all"].counted
    if made:
        typer.echo(f"{counted(made, 'counted request')} made for this, which a prefetch need not make again")
    show_end(result)


def _tell_sums(planned: Sequence[Planned], result: Result) -> None:
    from mirror.airgap.prefetch.outcome import Amount  # noqa: PLC0415  # not needed to print help

    whole, here, to_fetch = Amount(), Amount(), Amount()
    for one in planned:
        whole, here, to_fetch = whole + one.whole - one.shared, here + one.here, to_fetch + one.to_fetch
    typer.echo(
        f"{counted(len(planned), 'image')} of {show_bytes(whole.bytes)}: {show_bytes(here.bytes)} here, "
        f"{show_bytes(to_fetch.bytes)} to fetch, {counted(to_fetch.blobs, 'blob')} and "
        f"{counted(to_fetch.manifests, 'manifest')}"
    )
    if to_fetch.bytes > result.capacity:
        caution(
            f"that is more than the {show_bytes(result.capacity)} that the store may take; raise storage.max_size, or "
            "leave out platforms by --platform"
        )


def _row(one: Planned) -> tuple[str, ...]:
    digest = one.digest.hex[:_SHORT] if one.digest is not None else ""
    figures = (one.whole.bytes, one.here.bytes, one.shared.bytes, one.to_fetch.bytes)
    return (_named(one), digest, *map(show_bytes, figures), some_of(one.platforms))


def _named(one: Planned) -> str:
    """Return the reference; a digest in it is in the column beside."""
    return one.reference.partition("@")[0]
