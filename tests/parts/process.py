"""A program that runs beside the tests: started with its output in a file, waited for, and ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

READY = 30.0  # seconds that a program may take to be ready
_STOP = 20.0  # seconds that it may take to end


class ProgramError(Exception):
    """A program did not do what the test needs. The message holds what it said."""


def run(
    *command: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    within: float = 100,
) -> str:
    """Run a command to its end and return its standard output; raise `ProgramError`, with what it said, if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        timeout=within,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise ProgramError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said[-4000:]}")
    return done.stdout.decode(errors="replace")


def answers(address: tuple[str, int]) -> bool:
    """Say whether somebody listens at an address."""
    with socket.socket() as probe:
        return probe.connect_ex(address) == 0


def free_port() -> int:
    """Return a port that nobody listens on now, for programs that cannot be told to choose one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def room(name: str, *, memory: bool = False) -> Iterator[Path]:
    """Give a directory with a short path (sockets need that) and take it away again.

    In `memory` a client's image store takes half the time: it writes each small file through to the disk.
    """
    path = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    if memory:
        run("mount", "-t", "tmpfs", "-o", "size=4g", "tests", path)
    try:
        yield path
    finally:
        # Stores mount themselves once more, and cleaners that a container's end has started may do so late; what is
        # unmounted lazily goes as a whole, with what lies in it.
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed(mounts):
            if Path(mount).is_relative_to(path):
                run("umount", "--lazy", mount)
        shutil.rmtree(path)


class Program:
    """One running program. A context manager: it ends with the block, and its file of output can be read meanwhile."""

    def __init__(self, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self) -> bool:
        """Say whether it can be used; a program of its own kind knows how to find out."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, start_new_session=True
            )
        try:
            self.wait(self.ready)
        except ProgramError:
            self.kill()
            raise

    def wait(self, condition: Callable[[], bool], within: float = READY) -> None:
        """Ask until `condition()` holds: another process gives no sign that could be awaited."""
        until = time.monotonic() + within
        while not condition():
            if self._process is not None and self._process.poll() is not None:
                raise ProgramError(f"{self.command[0]} ended with {self._process.returncode}:\n{self.said()}")
            if time.monotonic() > until:
                raise ProgramError(f"{self.command[0]}: what was waited for did not come in {within} s:\n{self.said()}")
            time.sleep(0.02)

    def said(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-4000:]

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> int:
        """Ask it to end, and wait; return its exit code (negative: the signal that ended it)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramError(f"{self.command[0]} did not end within {_STOP} s:\n{self.said()}") from None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.terminate()
