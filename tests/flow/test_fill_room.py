"""A disk that is full, a cap that is reached: the fill is refused, what is cached is not harmed (promise 7)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from mirror.store.part import PartFile
from tests.fakes.faults import NoLength, NoRange
from tests.flow.fills import MIB, REPO, on_disk, path_of, unfinished

if TYPE_CHECKING:
    from tests.fakes.registry import FakeRegistry
    from tests.flow.conftest import StartMirror


@pytest.mark.parametrize(("fallback", "status"), [(True, 404), (False, 503)])
async def test_what_is_over_the_cap_is_refused_before_its_first_byte(
    fallback: bool, status: int, start: StartMirror, upstream: FakeRegistry
) -> None:
    small, large = upstream.add_pattern_blob(REPO, 2 * MIB), upstream.add_pattern_blob(REPO, 20 * MIB, 1)
    mirror = await start(upstream, storage={"max_size": "10MiB"}, server={"fallback": fallback})
    assert (await mirror.get(path_of(small))).status == 200
    await mirror.settled()
    before = on_disk(mirror.server.store.layout.root)
    refused = await mirror.get(path_of(large))
    assert refused.status == status
    assert "storage.max_size" in refused.message
    await mirror.settled()
    assert on_disk(mirror.server.store.layout.root) == before
    assert unfinished(mirror.server.store.layout.root) == []
    assert (await mirror.get(path_of(small))).status == 200
    other = upstream.add_pattern_blob(REPO, 3 * MIB, 2)
    assert (await mirror.get(path_of(other))).status == 200, "the room was given back"


async def test_what_grows_over_the_cap_is_broken_off(start: StartMirror, upstream: FakeRegistry) -> None:
    large = upstream.add_pattern_blob(REPO, 20 * MIB, 1)
    upstream.fault(kind="blob", then=(NoLength(), NoRange()))
    mirror = await start(upstream, storage={"max_size": "10MiB"})
    used = mirror.server.store.room._content
    with pytest.raises(Exception, match=r"payload|disconnect|reset"):
        await mirror.get(path_of(large))
    await mirror.settled()
    assert mirror.server.store.room._content == used
    assert unfinished(mirror.server.store.layout.root) == []


async def test_a_disk_that_fills_up_in_the_middle_ends_the_fill_only(
    start: StartMirror, upstream: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = upstream.add_pattern_blob(REPO, MIB), upstream.add_pattern_blob(REPO, 3 * MIB, 1)
    mirror = await start(upstream)
    assert (await mirror.get(path_of(kept))).status == 200
    await mirror.settled()
    used = mirror.server.store.room._content
    right = os.pwrite
    parts: list[int] = []
    mark = PartFile.try_lock

    def remember(part: PartFile) -> bool:
        parts.append(part.file.fileno())
        return mark(part)

    def full(fd: int, data: bytes, offset: int) -> int:
        if fd in parts and offset >= MIB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return right(fd, data, offset)

    monkeypatch.setattr(PartFile, "try_lock", remember)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(Exception, match=r"payload|disconnect|reset"):
        await mirror.get(path_of(lost))
    await mirror.settled()
    monkeypatch.undo()
    assert mirror.server.store.room._content == used
    assert unfinished(mirror.server.store.layout.root) == []
    assert (await mirror.get(path_of(kept))).body == upstream.content(REPO, kept)
    assert (await mirror.get(path_of(lost))).body == upstream.content(REPO, lost)
