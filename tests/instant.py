"""An event loop whose clock a test need not wait for."""

from __future__ import annotations

import asyncio
import selectors


class Instant(asyncio.SelectorEventLoop):
    """Its clock jumps to whatever is due next: a second passes at once."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        select = selector.select

        def jump(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self._now += max(0.0, timeout or 0.0)
            return select(0)

        selector.select = jump  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._now
