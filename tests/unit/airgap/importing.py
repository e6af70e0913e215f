"""A store that bundles are taken into, in the test's own process, and all that can be seen of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from mirror import config
from mirror.airgap.bundle.intake import Intake
from mirror.airgap.bundle.outcome import Terms
from mirror.airgap.bundle.source import open_source
from mirror.store import facts
from mirror.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mirror.airgap.bundle.outcome import Imported

_CONTENT = "SELECT hex(digest), taken, media_type, root, pinned FROM node WHERE taken IS NOT NULL ORDER BY digest"


class Site:
    """One store, open as long as the context is."""

    def __init__(self, root: Path, max_size: str) -> None:
        self.root = root
        text = f"storage: {{path: {root}, max_size: {max_size}, min_free: 0B}}"
        self.settings = config.parse(text, "mirror.yaml", {})
        self.store = Store.open(self.settings.storage)

    def take(self, *paths: Path | str, **terms: Any) -> Imported:
        """Import one bundle."""
        with open_source([str(path) for path in paths]) as source:
            return asyncio.run(Intake(self.store, self.settings.storage, Terms(**terms)).run(source))

    def state(self) -> dict[str, Any]:
        """Return all that an import could change: facts, content, files, and what the room counts."""
        with closing(sqlite3.connect(self.root / "index.sqlite")) as db:
            told = sorted(map(str, facts.recorded(db)))
            content = db.execute(_CONTENT).fetchall()
        balance = self.store.room.balance()
        files = [*(self.root / "blobs.v1").rglob("*"), *(self.root / "fills.v1").iterdir()]
        return {
            "facts": told,
            "content": content,
            "files": sorted(
                (str(path.relative_to(self.root)), path.stat().st_size) for path in files if path.is_file()
            ),
            "room": (balance.content, balance.held, balance.outstanding),
        }


@contextmanager
def site(root: Path, max_size: str = "1GiB") -> Iterator[Site]:
    """Open a store, making it where there is none."""
    opened = Site(root, max_size)
    try:
        yield opened
    finally:
        opened.store.close()
