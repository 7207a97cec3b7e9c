"""An event loop whose clock a test need not wait for."""

from __future__ import annotations

import asyncio
import selectors


class _Now(selectors.DefaultSelector):
    """Waits for nothing; `passed` is how long it was told to wait, in seconds."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.passed += max(0.0, timeout or 0.0)
        return super().select(0)


class Instant(asyncio.SelectorEventLoop):
    """Its clock jumps to whatever is due next: a second passes at once."""

    def __init__(self) -> None:
        self._now = _Now()
        super().__init__(self._now)

    def time(self) -> float:
        return self._now.passed
