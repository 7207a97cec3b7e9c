"""What runs when a visitor asks for more than can run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_Value = TypeVar("_Value")


class Turn:
    """One task at a time, as a `with` block around what it does: a new one ends the one before it."""

    def __init__(self) -> None:
        self._holder: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        self.stop()
        self._holder = asyncio.current_task()

    def __exit__(self, *error: object) -> None:
        if self._holder is asyncio.current_task():
            self._holder = None

    def stop(self) -> None:
        """Ends what runs."""
        if self._holder is not None:
            self._holder.cancel()
            self._holder = None


class Latest(Generic[_Value]):
    """Acts on values that may come faster than it can: one at a time, and after it on the newest. Each that it acts
    on is seen to its end, so that something is seen while a slider moves.
    """

    def __init__(self, act: Callable[[_Value], Awaitable[None]]) -> None:
        self._act = act
        self._waiting: list[_Value] = []
        self._acts = False

    async def __call__(self, value: _Value) -> None:
        self._waiting = [value]
        if self._acts:
            return
        self._acts = True
        try:
            while self._waiting:
                await self._act(self._waiting.pop())
        finally:
            self._acts = False
