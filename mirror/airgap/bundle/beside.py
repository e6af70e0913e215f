"""What lies beside a bundle: its manifest, and the signature of that. Next month's bundle needs no more of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirror.airgap.bundle.manifest import NAME, SIGNATURE
from mirror.airgap.bundle.source import BESIDE, SIGNED
from mirror.airgap.bundle.targets import FileTarget, refusing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Beside:
    """The files beside the bundle `path`, written before it, so that a disk that is full is told of in time.

    They get their names when the bundle has its own. Before that those of an earlier bundle go: a crash in between may
    leave a bundle with nothing beside it, and never with what is beside another one.
    """

    def __init__(self, path: Path, documents: Mapping[str, bytes]) -> None:
        """Write them; raise `MirrorError` where that cannot be."""
        self._path = path
        self._old: list[Path] = []
        self._new: list[FileTarget] = []
        try:
            for name, suffix in ((NAME, BESIDE), (SIGNATURE, f"{BESIDE}{SIGNED}")):
                beside = path.with_name(path.name + suffix)
                self._old.append(beside)
                if name in documents:
                    target = FileTarget(beside)
                    self._new.append(target)
                    target.write(memoryview(documents[name]))
        except BaseException:
            self.close()
            raise

    def clear(self) -> None:
        """Take away what lies beside an earlier bundle of this name."""
        with refusing(self._path):
            for path in self._old:
                path.unlink(missing_ok=True)

    def finish(self) -> tuple[Path, ...]:
        """Give them their names, and return these."""
        return tuple(path for target in self._new for path in target.finish())

    def close(self) -> None:
        """Let go; take away what was not finished."""
        for target in self._new:
            target.close()
