"""Programs that print credentials: Docker's credential helpers, and `exec` of the configuration.

Both get the registry's address on standard input and print JSON, `{"ServerURL": …, "Username": …, "Secret": …}`
(github.com/docker/docker-credential-helpers). `"ExpiresAt"` (RFC 3339) or `"ExpiresIn"` (seconds) may say how long that
is good; a helper that knows nothing of the registry exits with 1 and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from mirror.config.credentials import Credentials
from mirror.log import scrub_text
from mirror.upstream.accounts import ANONYMOUS
from mirror.upstream.logins import NoCredentials, named_after

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from asyncio.subprocess import Process

TIME_LIMIT = 15.0  # seconds for one run
REFRESH = 900.0  # seconds after which a program is asked again that did not say how long its answer is good
AGAIN = 10.0  # seconds before a program that failed is asked again

_REFUSED_AGAIN = 60.0  # seconds before one is asked again whose answer was refused, anew too
_NOT_FOUND_FOR = 60.0  # seconds that `not found` is believed
_MAX_OUTPUT = 64 * 1024  # bytes
_MAX_QUOTE = 300  # characters of what it says when it fails
_NOT_FOUND = b"credentials not found in native keychain"
_LONGEST = 10 * 365 * 86_400  # seconds; past that no number says anything
_SHORTEST = 4  # characters of what may be a secret
_OPAQUE = re.compile(r"[A-Za-z0-9+/=_.~-]{20,}")  # a word like this may be a secret

_log = structlog.get_logger(__name__)


class ProgramFailed(Exception):
    """A program gave no answer; the text says why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a program printed. Times are monotonic; `expires_at` is infinite where it did not say."""

    credentials: Credentials | None  # None: it knows nothing of this registry
    refresh_at: float
    expires_at: float


class Program:
    """A login whose credentials a program prints. It is asked when they are needed, and again before they end.

    One run at a time; while a run fails, the last good credentials are used for as long as they last.
    """

    def __init__(self, command: tuple[str, ...], server: str, *, namespace: str, name: str | None = None) -> None:
        """`name` is what it is called; None: as the program is, whose arguments may be secret."""
        self._name = name
        self._command = command
        self._server = server
        self._namespace = namespace
        self._given: Given | None = None
        self._before: Credentials | None = None  # what was replaced last, and may still be good
        self._failure: str | None = None
        self._complaint: str | None = None
        self._not_before = 0.0  # monotonic: no run before this, since the last one failed
        self._asked_again: tuple[Credentials, float] | None = None
        self._run: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """See `Login.name`."""
        if self._name is not None:
            return self._name
        if self._given is not None and self._given.credentials is None:
            return ANONYMOUS
        return named_after(self._command[0].rpartition("/")[2])

    async def credentials(self) -> Credentials | None:
        """See `Login.credentials`."""
        now = time.monotonic()
        given = self._given
        if given is not None and now < given.refresh_at:
            return given.credentials
        if self._run is None and now < self._not_before:
            if given is not None and now < given.expires_at:
                return given.credentials
            raise self._unavailable()
        run = self._start()
        if given is not None and now < given.expires_at:
            return given.credentials  # good for a while yet; nobody waits for the next
        await asyncio.wait([run])
        if self._given is None or time.monotonic() >= self._given.expires_at:
            raise self._unavailable()
        return self._given.credentials

    async def renew(self, refused: Credentials) -> bool:
        """See `Login.renew`. The same credentials are asked for anew once, not at every request that they fail."""
        now = time.monotonic()
        if self._given is not None and self._given.credentials != refused:
            return self._given.credentials is not None
        if self._asked_again is not None and self._asked_again[0] == refused and now < self._asked_again[1]:
            return False
        self._asked_again = (refused, now + _REFUSED_AGAIN)
        await asyncio.wait([self._start()])
        return self._given is not None and self._given.credentials not in (None, refused)

    def secrets(self) -> tuple[str, ...]:
        """See `Login.secrets`."""
        known = (self._given.credentials if self._given is not None else None, self._before)
        return tuple(secret for each in known if each is not None for secret in each.secrets())

    async def close(self) -> None:
        """End a run that is under way."""
        if self._run is not None:
            self._run.cancel()
            await asyncio.gather(self._run, return_exceptions=True)

    def _start(self) -> asyncio.Task[None]:
        if self._run is None:
            self._run = asyncio.create_task(self._ask(), name="credentials program")
        return self._run

    async def _ask(self) -> None:
        try:
            given = await ask(self._command, self._server, self.secrets())
        except ProgramFailed as failure:
            self._failed(str(failure))
        else:
            if self._given is not None and self._given.credentials != given.credentials:
                self._before = self._given.credentials
            self._given = given
            self._failure = self._complaint = None
        finally:
            self._run = None

    def _failed(self, why: str) -> None:
        self._failure = why
        self._not_before = time.monotonic() + AGAIN
        if why != self._complaint:
            self._complaint = why
            kept = self._given is not None and time.monotonic() < self._given.expires_at
            _log.error(
                f"a program that prints credentials fails; {'the last stay in use' if kept else 'there are none'}",
                upstream=self._namespace,
                program=self._command[0],
                cause=why,
            )

    def _unavailable(self) -> NoCredentials:
        return NoCredentials(
            f"{self._namespace}: there are no credentials: {self._command[0]} {self._failure or 'was broken off'}",
            namespace=self._namespace,
        )


async def ask(command: tuple[str, ...], server: str, secrets: tuple[str, ...] = ()) -> Given:
    """Run a program, without a shell, and read what it prints; raise `ProgramFailed`. `secrets` are never quoted."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # so that what it starts ends with it
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a command"
        raise ProgramFailed(f"cannot be run ({why}); install it, or name another one") from None
    try:
        async with asyncio.timeout(TIME_LIMIT):
            printed, said, _ = await asyncio.gather(
                _read(process.stdout), _read(process.stderr), _write(process.stdin, server)
            )
            status = await process.wait()
    except TimeoutError:
        _kill(process)  # it may have ended itself, and left something that holds on to its output
        raise ProgramFailed(f"did not end within {TIME_LIMIT:.0f} s") from None
    finally:
        if process.returncode is None:
            _kill(process)
        # A pipe that was not read to its end stays open otherwise, and there is no public way to close it.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001
        await process.wait()
    if status != 0:
        if _NOT_FOUND in printed.lower():
            return _nothing()
        raise ProgramFailed(f"ended with {status}{_quote(said, printed, secrets)}")
    return parse(printed)


def parse(printed: bytes, *, now: float | None = None) -> Given:
    """Read what a program printed; raise `ProgramFailed`. `now` is the wall clock, seconds since the epoch."""
    try:
        answer = json.loads(printed)
    except (ValueError, RecursionError):
        raise ProgramFailed("printed something that is not JSON") from None
    if not isinstance(answer, dict):
        raise ProgramFailed("printed something that is not a JSON object")
    username, secret = answer.get("Username", ""), answer.get("Secret")
    if username == secret == "":  # how docker-credential-pass says that it has nothing
        return _nothing()
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        raise ProgramFailed('printed no "Secret"')
    now = time.time() if now is None else now
    life = _life(answer, now)
    received = time.monotonic()
    credentials = Credentials.of(username, secret)
    if not credentials.sendable:
        raise ProgramFailed("printed a user name or a secret that cannot be sent")
    if life is None:
        return Given(credentials, received + REFRESH, float("inf"))
    if life <= 0:
        raise ProgramFailed("printed credentials that have ended already; look at the clock")
    return Given(credentials, received + life * random.uniform(0.8, 0.9), received + life)  # noqa: S311  jitter


def _nothing() -> Given:
    end = time.monotonic() + _NOT_FOUND_FOR
    return Given(None, end, end)


def _life(answer: dict[str, object], now: float) -> float | None:
    at, left = answer.get("ExpiresAt"), answer.get("ExpiresIn")
    if isinstance(at, str) and at:
        try:
            when = datetime.fromisoformat(at)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            raise ProgramFailed('printed "ExpiresAt" that is no time of RFC 3339') from None
    if isinstance(left, int | float) and not isinstance(left, bool) and left == left:  # noqa: PLR0124  NaN is no time
        return float(min(left, _LONGEST))
    if at or left is not None:
        raise ProgramFailed('printed "ExpiresAt" or "ExpiresIn" that is no time')
    return None


async def _read(stream: StreamReader | None) -> bytes:
    """Read a pipe to its end; raise `ProgramFailed` where that does not come for too long."""
    assert stream is not None  # noqa: S101  it was asked for
    content = bytearray()
    while piece := await stream.read(_MAX_OUTPUT):
        content += piece
        if len(content) > _MAX_OUTPUT:
            raise ProgramFailed("printed more than 64 KiB")
    return bytes(content)


async def _write(stream: StreamWriter | None, server: str) -> None:
    assert stream is not None  # noqa: S101  it was asked for
    with contextlib.suppress(ConnectionError):  # a program may know without asking
        stream.write(f"{server}\n".encode())
        await stream.drain()
    stream.close()
    with contextlib.suppress(ConnectionError):
        await stream.wait_closed()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _quote(said: bytes, printed: bytes, secrets: tuple[str, ...]) -> str:
    """Return the last line of what a program said on standard error, unless there may be a secret in it."""
    lines = said.decode(errors="replace").split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    words = re.split(r'[\s"]+', printed.decode(errors="replace"))  # one of them may be the secret
    if not line or any(secret in line for secret in (*secrets, *words) if len(secret) >= _SHORTEST):
        return "; run it by hand to see why"
    line = _OPAQUE.sub("…", scrub_text(line[: 4 * _MAX_QUOTE]))
    return ": " + "".join(c if c.isprintable() else " " for c in line)[:_MAX_QUOTE]
