from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.store.io import DiskThreads
from mirror.store.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def threads() -> Iterator[DiskThreads]:
    pool = DiskThreads()
    yield pool
    pool.close()
