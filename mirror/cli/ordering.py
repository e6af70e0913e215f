"""The options of `mirror prefetch` and `mirror plan`, and the order that they come to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.cli.inputs import content
from mirror.errors import ListMalformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.prefetch.lock import Lock
    from mirror.airgap.prefetch.order import Order

_JOBS = 4
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)\s*%", re.ASCII)

PlatformOption = Annotated[
    list[str] | None,
    typer.Option(
        "--platform",
        metavar="OS/ARCH",
        help="As linux/amd64; several by commas or repeated; host: this machine's; all, the default.",
    ),
]
ReferrersOption = Annotated[
    str,
    typer.Option(
        "--referrers",
        metavar="TYPES",
        help="Signatures, attestations and the like: all, none, or artifact types by commas.",
    ),
]
JobsOption = Annotated[int, typer.Option("--jobs", metavar="N", min=1, max=64, help="Images at once.")]
FailFastOption = Annotated[
    bool,
    typer.Option("--fail-fast/--keep-going", help="Stop at the first failure, or go on with the others."),
]
LockOption = Annotated[
    Path | None,
    typer.Option("--lock", metavar="FILE", help="Write what each tag is now, for --locked; it is a list, too."),
]
LockedOption = Annotated[
    Path | None,
    typer.Option(
        "--locked",
        metavar="FILE",
        help="Tags are what this file says, and upstream is not asked; a tag that is not in it fails. Together with "
        "--lock it is asked for, and added.",
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--budget",
        metavar="PERCENT",
        help="How much of an upstream's rate limit may be used up, by whomever; then it waits. 20% leaves 80%.",
    ),
]
MissingOption = Annotated[
    Path | None,
    typer.Option(
        "--missing",
        metavar="FILE",
        help="Write what could not be had, as a list that --from takes. Where a list was given and something is "
        "missing it is missing.txt in the current directory, but not with --json, and not over a file of other origin.",
    ),
]


def order(
    *,
    platform: Sequence[str] | None,
    referrers: str,
    jobs: int = _JOBS,
    fail_fast: bool = False,
    pin: bool = False,
    budget: str = "100%",
    locked: Lock | None = None,
    amend: bool = False,
) -> Order:
    """Make an order of what the command line says; raise `typer.BadParameter`."""
    from mirror.airgap.choice import Platforms, ReferrerTypes  # noqa: PLC0415  # not needed to print help
    from mirror.airgap.prefetch.order import Order  # noqa: PLC0415  # the same

    try:
        platforms = Platforms.parse(platform or ())
    except ValueError as error:
        raise typer.BadParameter(f"--platform: {error}; several are separated by commas, all means all") from None
    try:
        types = ReferrerTypes.parse(referrers)
    except ValueError as error:
        raise typer.BadParameter(f"--referrers: {error}") from None
    return Order(
        platforms=platforms,
        referrers=types,
        jobs=jobs,
        fail_fast=fail_fast,
        pin=pin,
        budget=_share(budget),
        locked=locked.tags if locked is not None else None,
        amend=amend,
    )


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"--budget {text} is no share of a limit; write more than 0% and at most 100%, as 20%")
    return share


def read_lock(locked: Path | None, lock: Path | None) -> Lock | None:
    """Read the lock file to follow, None where there is none to. Raise `ListMalformed`.

    A file that is to be followed and written need not be there yet.
    """
    if locked is None:
        return None
    from mirror.airgap.prefetch.lock import Lock  # noqa: PLC0415  # not needed to print help

    try:
        return Lock.read(content(str(locked)), str(locked))
    except FileNotFoundError:
        if lock is not None and lock.absolute() == locked.absolute():
            return Lock()
        raise ListMalformed(f"--locked {locked}: there is no such file; --lock {locked} writes it") from None
    except OSError as error:
        raise ListMalformed(f"--locked {locked} cannot be read: {error.strerror or error}") from None
