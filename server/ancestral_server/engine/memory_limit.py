"""How many rows a run may have: fewer after one did not fit into memory, and step by step more again later."""

from __future__ import annotations

import math
from collections.abc import Sequence

# How long a lane keeps to what fits before it tries the next larger size. A try that fails costs one run and
# the memory of others for a moment; half a minute is a guess, nothing was measured.
GROW_SECONDS = 30.0


class BatchSizeLimit:
    """`sizes` are the sizes of a run, ascending; their largest is where it begins. The lane's lock is held."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._most = sizes[-1]
        self._grow_at = math.inf

    def most(self, now: float) -> int:
        """Rows of the next run, at most."""
        if now >= self._grow_at:
            self._most = next((size for size in self._sizes if size > self._most), self._most)
            self._rest(now)
        return self._most

    def shrink(self, size: int, now: float) -> bool:
        """A run of `size` rows did not fit: half as many next time. False if it was the smallest."""
        smaller = [known for known in self._sizes if known <= size // 2]
        if not smaller:
            return False
        self._most = min(self._most, smaller[-1])
        self._rest(now)
        return True

    def _rest(self, now: float) -> None:
        """Try no more than this for a while."""
        full = self._most == self._sizes[-1]
        self._grow_at = math.inf if full else now + GROW_SECONDS
