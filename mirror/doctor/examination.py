"""The whole examination: every check at the same time, each with a limit."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mirror.doctor import clock, containerd, docker, k3s, limits, listening, podman, storage, upstreams
from mirror.doctor.finding import About, Finding, Level

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mirror.doctor.case import Case

_T = TypeVar("_T")
LIMIT = 30.0  # seconds for one check; what it does has shorter limits, but for a disk that hangs


@dataclass(frozen=True, slots=True)
class Check:
    """One part of the examination; `hangs` is what to do where it does not come to its end."""

    name: str
    look: Callable[[], Awaitable[list[Finding]]]
    hangs: str = "ask again; if it stays so, something between here and there swallows what is sent (firewall, DNS)"


async def examine(
    case: Case, *, limit: float = LIMIT, tell: Callable[[str, bool], None] | None = None
) -> list[Finding]:
    """Examine everything; return what was found, in the order in which a person reads it.

    `tell` hears the name of each check when it begins (False) and when it ends (True).
    """
    disk = "the disk hangs: see dmesg, and whether storage.path is on a network file system whose server is away"
    checks = [
        Check("listening", lambda: listening.examine(case)),
        Check("upstreams", lambda: _upstreams(case)),
        Check("storage", lambda: _in_thread(lambda: storage.examine(case)), disk),
        Check("limits", lambda: _in_thread(lambda: limits.examine(case)), disk),
        Check("clients", lambda: _clients(case)),
    ]
    found = await asyncio.gather(*(_run(check, limit, tell) for check in checks))
    return _configuration(case) + [finding for some in found for finding in some]


def code(case: Case, findings: list[Finding]) -> int:
    """Return the exit code: 0 no failure, 1 a failure, 2 a configuration that does not load."""
    if case.problems:
        return 2
    return int(any(finding.level is Level.FAILURE for finding in findings))


def _configuration(case: Case) -> list[Finding]:
    if case.config is None:
        about = About("configuration", "mirror.yaml")
        cure = "correct it; mirror check says when it is right. What depends on it was not looked at"
        return [about.failure(problem, cure) for problem in case.problems]
    about = About("configuration", case.config.source)
    findings = []
    for caution in case.cautions:
        found, _, cure = caution.partition("; ")
        findings.append(about.warning(found, cure or "see the comments in mirror.yaml"))
    if not case.here:
        findings.append(
            about.ok(
                "there is no mirror.yaml here and the mirror is elsewhere, so only what its clients need was looked at",
                "run mirror doctor on the mirror's own host for its upstreams, its store and its limits",
            )
        )
    return findings or [about.ok("loads, and allows nothing that its owner may not have meant")]


async def _upstreams(case: Case) -> list[Finding]:
    probed = await upstreams.probe(case)
    return [one.finding for one in probed] + clock.examine([one.ahead for one in probed if one.ahead is not None])


async def _clients(case: Case) -> list[Finding]:
    found = await asyncio.gather(
        docker.examine(case), containerd.examine(case), podman.examine(case), k3s.examine(case)
    )
    findings = [finding for some in found for finding in some]
    nobody = About("clients", str(case.root)).ok(
        "no Docker, containerd, Podman, CRI-O or k3s is installed here", "run mirror doctor --url URL where they are"
    )
    return findings or [nobody]


async def _run(check: Check, limit: float, tell: Callable[[str, bool], None] | None) -> list[Finding]:
    if tell is not None:
        tell(check.name, False)
    try:
        async with asyncio.timeout(limit):
            return await check.look()
    except TimeoutError:
        about = About(check.name, "the check itself")
        return [about.failure(f"did not come to its end within {limit:.3g} s", check.hangs)]
    finally:
        if tell is not None:
            tell(check.name, True)


async def _in_thread(call: Callable[[], _T]) -> _T:
    """Run `call` in a thread that nobody waits for: one that a dead disk holds must not hold up the end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # one of the two is there

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # noqa: BLE001  # it goes to whoever waits
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await future
