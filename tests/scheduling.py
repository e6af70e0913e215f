"""Which tests one process runs where several share the work: those of a file, which share what is slow to make."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class ByFile(LoadScopeScheduling):
    """One file after the other, as they are collected: those with real clients, which take the longest, begin.

    pytest-xdist has the same as `loadfile`, and groups by a mark, which it does not see with this pytest.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, _ = nodeid.partition("::")
        return nodeid if file.startswith("tests/model/") else file  # each walk is long, and shares nothing
