"""An uplink that is slow: so many bytes a second, shared by all who hold the same `Pace`."""

from __future__ import annotations

import asyncio

_BURST = 0.02  # seconds that a late sender may catch up


class Pace:
    """`rate` bytes per second in all; first come, first served."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free = 0.0  # when the line is free again, by the loop's clock

    async def pass_(self, size: int) -> None:
        """Wait until `size` bytes may have gone through."""
        now = asyncio.get_running_loop().time()
        self._free = max(self._free, now - _BURST) + size / self.rate
        if self._free > now:
            await asyncio.sleep(self._free - now)
