"""What was served waits to be written, and no more of it than there is room for in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mirror.cache import served
from mirror.cache.served import Record
from mirror.errors import StoreError
from mirror.oci.digest import Digest
from mirror.oci.name import Repository, Tag
from mirror.store.history import History
from tests.unit.store.stocked import opened

if TYPE_CHECKING:
    from pathlib import Path

NGINX = Repository("docker.io", "library/nginx")


async def test_what_the_disk_refuses_again_and_again_does_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "MOST", 10)
    with opened(tmp_path / "data") as store:
        record = Record(store, clock=lambda: 1.0)
        store.layout.served.mkdir()  # nobody writes to that
        for turn in range(3):
            for number in range(10):
                record.note(NGINX, Tag(f"{turn}.{number}"), Digest.of(b"one"))
            with pytest.raises(StoreError):
                await record.flush()
        store.layout.served.rmdir()
        await record.flush()
        assert {str(one.tag) for one in History(store.layout).read()} == {f"2.{number}" for number in range(10)}
