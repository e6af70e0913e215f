"""When something was last asked for is known to all processes at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from mirror.oci.digest import Digest
from mirror.store import layout as layout_module
from mirror.store.recent import SIZE, Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mirror.store.layout import Layout

NOW = 1_800_000_000.0
ONE, OTHER = Digest.of(b"one"), Digest.of(b"other", "sha512")


@pytest.fixture
def opened(layout: Layout) -> Iterator[Callable[[], Recent]]:
    tables = []

    def one() -> Recent:
        tables.append(Recent(layout, clock=lambda: NOW))
        return tables[-1]

    yield one
    for table in tables:
        table.close()
        table.close()


def test_what_was_touched_is_known_to_the_millisecond_and_nothing_else_is(opened: Callable[[], Recent]) -> None:
    recent = opened()
    assert recent.last(ONE) == 0.0
    recent.touch(ONE, NOW - 10.1234)
    recent.touch(OTHER, NOW - 5)
    assert recent.last(ONE) == pytest.approx(NOW - 10.1234, abs=0.001)
    assert recent.last(OTHER) == NOW - 5
    recent.touch(ONE, NOW)
    assert recent.last(ONE) == NOW
    assert recent.last(Digest.of(b"never")) == 0.0


def test_times_fit_until_the_next_century(layout: Layout) -> None:
    at = 4_102_444_800.0  # 2100-01-01
    recent = Recent(layout, clock=lambda: at)
    recent.touch(ONE, at)
    assert recent.last(ONE) == at
    recent.close()


def test_another_process_sees_it_at_once_though_the_one_that_touched_was_killed(
    layout: Layout, opened: Callable[[], Recent]
) -> None:
    recent = opened()
    assert recent.shared
    touches = (
        "import sys; from pathlib import Path; from mirror.oci.digest import Digest\n"
        "from mirror.store.layout import Layout; from mirror.store.recent import Recent\n"
        f"recent = Recent(Layout(Path({os.fspath(layout.root)!r})))\n"
        f"recent.touch(Digest.of(b'one'), {NOW}); print('done', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", touches], stdin=-1, stdout=-1)
    assert child.stdin is not None
    assert child.stdout is not None
    with child.stdin, child.stdout:
        assert child.stdout.readline() == b"done\n"
        assert recent.last(ONE) == NOW
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert recent.last(ONE) == NOW
    assert opened().last(ONE) == NOW


def test_two_that_share_a_cell_are_not_taken_for_each_other(opened: Callable[[], Recent]) -> None:
    recent = opened()
    cell = "cafe"  # the last four of the first ten digits
    one, other = (Digest("sha256", mark + cell + 54 * "0") for mark in ("000001", "000002"))
    recent.touch(one, NOW)
    recent.touch(other, NOW - 1)
    assert recent.last(one) == 0.0
    assert recent.last(other) == NOW - 1


def test_a_time_from_a_clock_that_was_ahead_is_not_believed(opened: Callable[[], Recent]) -> None:
    recent = opened()
    recent.touch(ONE, NOW + 61)
    assert recent.last(ONE) == 0.0
    recent.touch(ONE, NOW + 59)
    assert recent.last(ONE) == NOW + 59
    recent.touch(ONE, NOW - 3600)  # it was set back
    assert recent.last(ONE) == NOW - 3600


@pytest.mark.parametrize("size", [0, 5, SIZE - 1])
def test_a_table_that_is_too_short_is_filled_up_and_keeps_what_it_has(
    size: int, layout: Layout, opened: Callable[[], Recent]
) -> None:
    layout.recent.write_bytes(b"\xff" * size)
    recent = opened()
    assert layout.recent.read_bytes() == b"\xff" * size + bytes(SIZE - size)
    recent.touch(ONE, NOW)
    assert recent.last(ONE) == NOW


def test_no_block_is_missing_that_a_full_disk_could_not_give(layout: Layout, opened: Callable[[], Recent]) -> None:
    with layout.recent.open("wb") as sparse:
        sparse.truncate(SIZE)
    opened()
    assert layout.recent.stat().st_blocks * 512 >= SIZE


def test_a_table_that_others_have_mapped_is_never_made_smaller(layout: Layout, opened: Callable[[], Recent]) -> None:
    layout.recent.write_bytes(bytes(SIZE + 4096))
    opened()
    assert layout.recent.stat().st_size == SIZE + 4096


def test_where_there_can_be_no_file_a_process_remembers_for_itself(
    layout: Layout, opened: Callable[[], Recent]
) -> None:
    layout.recent.mkdir()
    recent = opened()
    assert not recent.shared
    recent.touch(ONE, NOW)
    assert recent.last(ONE) == NOW


@pytest.mark.parametrize("kind", ["btrfs", "zfs", "fuse.anything", ""])
def test_a_file_system_that_does_not_write_in_place_is_not_mapped(
    kind: str, layout: Layout, opened: Callable[[], Recent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = layout.root.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 {os.major(device)}:{os.minor(device)} / / rw - {kind} /dev/x rw\n" if kind else "")
    monkeypatch.setattr(layout_module, "MOUNTS", mounts)
    recent = opened()
    assert not recent.shared
    recent.touch(ONE, NOW)
    assert recent.last(ONE) == NOW


def test_touching_costs_about_a_microsecond(opened: Callable[[], Recent]) -> None:
    recent = opened()
    digests = [Digest.of(b"%d" % number) for number in range(1000)]
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for digest in digests:
            recent.touch(digest, NOW)
        best = min(best, (time.perf_counter() - start) / 1000)
    assert best < 5e-6, "ten times what it takes on an idle machine"
