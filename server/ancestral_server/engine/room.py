"""How many rows a run may have: fewer after one did not fit into memory, and step by step more again later."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

GROW_SECONDS = 30.0


class Room:
    """`sizes` are the sizes of a run, ascending; their largest is where it begins. Shrunk by whoever runs; it
    grows when anybody asks.
    """

    def __init__(self, sizes: Sequence[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._sizes = sizes
        self._clock = clock
        self._most = sizes[-1]
        self._grow_at = math.inf

    @property
    def most(self) -> int:
        """Rows of the next run, at most."""
        if self._grow_at < math.inf and self._clock() >= self._grow_at:
            self._most = next((size for size in self._sizes if size > self._most), self._most)
            self._rest()
        return self._most

    def shrink(self, size: int) -> bool:
        """A run of `size` rows did not fit: half as many next time. False if it was the smallest."""
        smaller = [known for known in self._sizes if known <= size // 2]
        if not smaller:
            return False
        self._most = min(self._most, smaller[-1])
        self._rest()
        return True

    def _rest(self) -> None:
        """Try no more than this for a while."""
        full = self._most == self._sizes[-1]
        self._grow_at = math.inf if full else self._clock() + GROW_SECONDS
