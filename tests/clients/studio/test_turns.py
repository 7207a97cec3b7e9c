"""What runs when a visitor asks for more than can run."""

from __future__ import annotations

import asyncio

import pytest

from ancestral_studio.turns import Latest, Turn
from waiting import at_rest


def test_a_new_turn_ends_the_one_before_it() -> None:
    async def main() -> None:
        turn, never, seen = Turn(), asyncio.Event(), list[str]()

        async def take(name: str) -> None:
            with turn:
                seen.append(name)
                await never.wait()

        first = asyncio.create_task(take("first"))
        await at_rest()
        second = asyncio.create_task(take("second"))
        await at_rest()
        assert first.cancelled()
        assert not second.done()
        turn.stop()
        await at_rest()
        assert second.cancelled()
        assert seen == ["first", "second"]
        turn.stop()  # nothing runs

    asyncio.run(main())


def test_a_turn_that_has_ended_is_not_ended_again() -> None:
    async def main() -> None:
        turn = Turn()
        with turn:
            pass
        turn.stop()
        await at_rest()  # raises if this task was cancelled

    asyncio.run(main())


def test_only_the_latest_of_what_came_meanwhile_is_acted_on() -> None:
    async def main() -> None:
        may, acted = asyncio.Event(), list[int]()

        async def act(value: int) -> None:
            acted.append(value)
            await may.wait()

        latest = Latest(act)
        first = asyncio.create_task(latest(0))
        await at_rest()
        for value in range(1, 9):
            await latest(value)  # returns at once: the task that acts sees to it
        may.set()
        await first
        assert acted == [0, 8]
        await latest(9)
        assert acted == [0, 8, 9]

    asyncio.run(main())


def test_a_failure_does_not_end_all_that_is_to_come() -> None:
    async def main() -> None:
        acted = list[int]()

        async def act(value: int) -> None:
            acted.append(value)
            if value == 0:
                raise ValueError("zero")

        latest = Latest(act)
        with pytest.raises(ValueError, match="zero"):
            await latest(0)
        await latest(1)
        assert acted == [0, 1]

    asyncio.run(main())
