"""Waiting for what must come, however long a busy machine takes: a test waits for an event and not for some seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Seconds after which what is waited for is taken to hang. No test says by it how fast anything is.
PATIENCE = 120.0
# Seconds between two looks at something that tells nobody when it changes.
LOOK = 0.01


def until(said: Callable[[], object]) -> None:
    """Return when it is true."""
    end = time.monotonic() + PATIENCE
    while not said():
        assert time.monotonic() < end, "it never came true"
        time.sleep(LOOK)


async def eventually(said: Callable[[], object]) -> None:
    """The same in an event loop, which goes on meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not said():
            await asyncio.sleep(LOOK)


async def at_rest() -> None:
    """Return when an event loop that nothing wakes from outside has done all that it can do by itself.

    What is to happen takes a few turns: a hundred are more than any chain of callbacks here, and no time.
    """
    for _ in range(100):
        await asyncio.sleep(0)
