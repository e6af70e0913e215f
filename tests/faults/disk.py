"""The weak disk as a program of its own, and what it leaves."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.parts.process import Program, run

if TYPE_CHECKING:
    from types import TracebackType

# What a file system that is read-only refuses.
_CHANGES = (
    "create",
    "open for writing",
    "write",
    "truncate",
    "fallocate",
    "rename",
    "unlink",
    "mkdir",
    "chmod",
    "utimens",
)
_ROOT = Path(__file__).resolve().parents[2]


class Disk(Program):
    """`tests.faults.weak_disk`, mounted on `place`/mount. `after` holds what a power cut left, once it has been cut.

    `names` and `torn` say what a power cut leaves of that which was not synced.
    """

    def __init__(self, place: Path, *, names: str = "synced", torn: int | None = None) -> None:
        self.mount, self.after = place / "mount", place / "after"
        self._rules, self._refused = place / "rules.json", place / "refused"
        plan = place / "plan.json"
        for directory in (place, self.mount, place / "root"):
            directory.mkdir(exist_ok=True)
        self.heal()
        paths = {
            "root": place / "root",
            "mount": self.mount,
            "rules": self._rules,
            "refused": self._refused,
            "after": self.after,
        }
        plan.write_text(json.dumps({**{name: str(path) for name, path in paths.items()}, "names": names, "torn": torn}))
        super().__init__(
            [sys.executable, "-m", "tests.faults.weak_disk", plan], place / "disk.log", env={"PYTHONPATH": _path()}
        )

    def ready(self) -> bool:
        """Say whether it is mounted."""
        return self.mount.is_mount()

    def fail(self, do: str, name: str, *, error: int = errno.EIO, beyond: int = 0) -> None:
        """Answer with `error` where a file of that name (a glob of the path) is touched beyond an offset."""
        rules = json.loads(self._rules.read_text())
        self._write([*rules, {"do": do, "name": name, "from": beyond, "errno": error}])

    def be_read_only(self) -> None:
        """Refuse every change, as a file system does that the kernel has made read-only after an error.

        mount(8) could not do this: it refuses while files are open for writing. The kernel does not ask.
        """
        self._write([{"do": do, "name": "*", "errno": errno.EROFS} for do in _CHANGES])

    def refused(self) -> list[str]:
        """Return what did fail, as `DO PATH`."""
        return self._refused.read_text().splitlines()

    def heal(self) -> None:
        """Fail no more."""
        self._write([])

    def cut(self) -> Path:
        """Take the power away from whoever uses it no more; return what the disk has then."""
        run("umount", self.mount)
        assert self._process is not None
        assert self._process.wait(30) == 0, self.said()
        return self.after

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.mount.is_mount():
            run("umount", "--lazy", self.mount)
        super().__exit__(kind, error, trace)

    def _write(self, rules: list[dict[str, object]]) -> None:
        new = self._rules.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.rename(self._rules)


def _path() -> str:
    return os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
