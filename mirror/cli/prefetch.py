"""`mirror prefetch`: have images here before anybody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli import plan
from mirror.cli.inputs import FromOption, ImagesArgument, ServedOption, ValueOption, read_inputs
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
from mirror.cli.tables import show, show_json
from mirror.config.units import show_bytes

if TYPE_CHECKING:
    from mirror.cli.prefetching import Result


def prefetch(  # noqa: PLR0917  # typer passes them by name
    images: ImagesArgument = None,
    files: FromOption = None,
    served: ServedOption = None,
    platform: PlatformOption = None,
    referrers: ReferrersOption = "all",
    jobs: JobsOption = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, as mirror plan does.")] = False,
    fail_fast: FailFastOption = False,
    pin: Annotated[bool, typer.Option("--pin", help="Keep each from eviction as soon as it is whole.")] = False,
    budget: BudgetOption = "100%",
    lock: LockOption = None,
    locked: LockedOption = None,
    missing: MissingOption = None,
    values: ValueOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch images into the cache, whole. What is here is not fetched again, so run it as often as you like."""
    result = carry_out(
        config,
        lambda settings: read_inputs(images, files, served, default=settings.default_upstream, values=values),
        lambda follow: order(
            platform=platform,
            referrers=referrers,
            jobs=jobs,
            fail_fast=fail_fast,
            pin=pin,
            budget=budget,
            locked=follow,
            amend=lock is not None,
        ),
        Files(lock, locked, missing),
        plan=dry_run,
        as_json=json,
    )
    if dry_run:
        plan.tell(result, as_json=json)
    else:
        _tell(result, as_json=json)
    raise typer.Exit(result.code)


def _tell(result: Result, *, as_json: bool) -> None:
    """Print the sums. What failed has been named when it did."""
    from mirror.cli.display import show_seconds  # noqa: PLC0415  # not needed to print help
    from mirror.cli.reporting import COLUMNS, report_of, rows_of, show_end, sums_of  # noqa: PLC0415  # the same

    if as_json:
        show_json(**report_of(result))
        return
    if result.outcomes:
        show(COLUMNS, rows_of(result))
    came = sums_of(result.outcomes)["all"].bytes
    if came and result.seconds >= 1:
        rate = show_bytes(int(came / result.seconds))
        typer.echo(f"\n{show_bytes(came)} in {show_seconds(result.seconds)}, {rate}/s")
    show_end(result)
