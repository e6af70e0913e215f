"""The command line beside a running mirror, without the half second that a start of Python costs each time.

One process has imported the program. Each command is a fork of it, and so a process of its own, as for a person.
"""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Commands:
    """Runs `mirror WORDS… --config FILE`. `run` blocks; one at a time."""

    def __init__(self, config: Path, directory: Path) -> None:
        self._config = config
        self._out, self._err = directory / "command.out", directory / "command.err"
        self._process: subprocess.Popen[str] | None = None

    def run(self, *words: str) -> Done:
        """Run a command to its end."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        task = [[*words, "--config", str(self._config)], str(self._out), str(self._err)]
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Done(code, self._out.read_text(), self._err.read_text())

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()  # closes its input, and that ends it


def _serve() -> None:
    # What commands import late, and what the first one makes.
    from mirror.cache import cache  # noqa: F401, PLC0415
    from mirror.cli.main import main  # noqa: PLC0415
    from mirror.store import audit, inuse, inventory, platforms, rejection, store, verification  # noqa: F401, PLC0415
    from mirror.upstream import registries  # noqa: F401, PLC0415

    with suppress(SystemExit), redirect_stdout(io.StringIO()):
        main(["check", "--config", os.devnull])
    gc.freeze()
    for line in sys.stdin:
        words, out, err = json.loads(line)
        child = os.fork()
        if not child:
            for descriptor, path, flags in ((0, os.devnull, 0), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
                opened = os.open(path, flags | (os.O_CREAT | os.O_TRUNC if flags else 0), 0o600)
                os.dup2(opened, descriptor)
                os.close(opened)
            main(words)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    _serve()
