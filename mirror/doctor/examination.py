"""The whole examination: every check at the same time, each with a limit."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mirror.doctor import clock, containerd, dealings, docker, k3s, limits, listening, podman, storage, upstreams
from mirror.doctor.finding import About, Finding, Level
from mirror.store.dealings import Dealings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from mirror.doctor.case import Case

_T = TypeVar("_T")
_CLIENTS = {
    "docker": docker.examine,
    "containerd": containerd.examine,
    "podman": podman.examine,
    "k3s": k3s.examine,
}
_FILES = "the disk that has its configuration hangs (see dmesg), or something between here and the mirror swallows all"
_BROKEN = "see whether that path is right, and dmesg whether its disk is"
_BOOK = 3.0  # seconds for what is known of upstreams
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
    ]
    asked = [Check(name, partial(_in_thread, partial(_client, look, case)), _FILES) for name, look in _CLIENTS.items()]
    found = await asyncio.gather(*(_run(check, limit, tell) for check in checks + asked))
    findings = _configuration(case) + [finding for some in found for finding in some]
    if not any(found[len(checks) :]):
        nobody = "no Docker, containerd, Podman, CRI-O or k3s is installed here"
        findings.append(About("clients", str(case.root)).ok(nobody, "run mirror doctor --url URL where they are"))
    return findings


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
    book, findings = Dealings(None), list[Finding]()
    with suppress(TimeoutError):  # the disk hangs, which is what the store's own check says
        book, findings = await asyncio.wait_for(_in_thread(lambda: dealings.read(case)), _BOOK)
    probed = await upstreams.probe(case, book)
    findings += [finding for one in probed for finding in (one.finding, *one.more)]
    return findings + clock.examine([one.ahead for one in probed if one.ahead is not None])


def _client(look: Callable[[Case], Coroutine[Any, Any, list[Finding]]], case: Case) -> list[Finding]:
    """Look at one client: in a loop of its own, since its files may lie on a disk that hangs."""
    return asyncio.run(look(replace(case)))


async def _run(check: Check, limit: float, tell: Callable[[str, bool], None] | None) -> list[Finding]:
    about = About(check.name, "the check itself")
    if tell is not None:
        tell(check.name, False)
    try:
        async with asyncio.timeout(limit):
            return await check.look()
    except TimeoutError:
        return [about.failure(f"did not come to its end within {limit:.3g} s", check.hangs)]
    except OSError as error:  # a disk that is broken, a path that is none: what the others found is worth the more
        where = f" ({error.filename})" if error.filename else ""
        return [about.failure(f"ended at an error of the system: {error.strerror or error}{where}", _BROKEN)]
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
