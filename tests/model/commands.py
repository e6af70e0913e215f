"""The command line beside a running mirror, without the half second that a start of Python costs each time.

One process has imported the program. Each command is a fork of it, and so a process of its own, as for a person.
"""

from __future__ import annotations

import gc
import io
import json
import mmap
import os
import select
import signal
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.model.dying import Death, prepare

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said. `calls` are those that changed the disk, where they were counted."""

    code: int
    out: str
    err: str
    calls: int = 0

    @property
    def told(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Running:
    """A command under way."""

    def __init__(self, pid: int, answers: io.FileIO, out: Path, err: Path) -> None:
        self.pid = pid
        self._answers, self._out, self._err = answers, out, err
        self._done: Done | None = None

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self._done is not None or bool(select.select([self._answers], [], [], 0)[0])

    def kill(self) -> None:
        """End it at once, as a crash would, if it has not ended."""
        if not self.ended:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Done:
        """Wait for its end. It blocks."""
        if self._done is None:
            code, calls = json.loads(self._answers.readline())
            self._done = Done(code, self._out.read_text(), self._err.read_text(), calls)
        return self._done


class Commands:
    """Runs `mirror WORDS… --config FILE`. `run` blocks; one at a time."""

    def __init__(self, config: Path, directory: Path) -> None:
        self._config = config
        self._out, self._err = directory / "command.out", directory / "command.err"
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, *words: str, config: Path | None = None, death: Death | None = None) -> Done:
        """Run a command to its end."""
        return self.begin(*words, config=config, death=death).wait()

    def begin(self, *words: str, config: Path | None = None, death: Death | None = None) -> Running:
        """Begin a command. With `death` the calls that change the disk are counted, and one of them is its end."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert isinstance(self._process.stdout, io.FileIO)
        task = [[*words, "--config", str(config or self._config)], str(self._out), str(self._err), death]
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        pid = int(self._process.stdout.readline())
        return Running(pid, self._process.stdout, self._out, self._err)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()  # closes its input, and that ends it


def _serve() -> None:
    # What commands import late, and what the first one makes.
    from mirror.airgap.bundle import intake, source  # noqa: F401, PLC0415
    from mirror.airgap.lists import read  # noqa: F401, PLC0415
    from mirror.airgap.prefetch import prefetch  # noqa: F401, PLC0415
    from mirror.cache import cache  # noqa: F401, PLC0415
    from mirror.cli import exporting  # noqa: F401, PLC0415
    from mirror.cli.main import main  # noqa: PLC0415
    from mirror.store import audit, inuse, inventory, platforms, rejection, store, verification  # noqa: F401, PLC0415
    from mirror.upstream import registries  # noqa: F401, PLC0415

    with suppress(SystemExit), redirect_stdout(io.StringIO()):
        main(["check", "--config", os.devnull])
    gc.freeze()
    calls = mmap.mmap(-1, 8)  # shared with each command
    for line in sys.stdin:
        words, out, err, death = json.loads(line)
        calls[:] = bytes(8)
        child = os.fork()
        if not child:
            for descriptor, path, flags in ((0, os.devnull, 0), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
                opened = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if flags else 0), 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            if death is not None:
                prepare(Death(*death), lambda count: calls.__setitem__(slice(None), count.to_bytes(8, "little")))
            main(words)
        print(child, flush=True)  # noqa: T201 - the answer
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, int.from_bytes(calls[:], "little")]), flush=True)  # noqa: T201 - the same


if __name__ == "__main__":
    _serve()
