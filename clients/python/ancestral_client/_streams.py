"""How a caller takes what comes bit by bit: in a loop, or in an `async for`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self, TypeVar

from ancestral_client._transport import run

_Item = TypeVar("_Item")
_Told = TypeVar("_Told", covariant=True)


class Answers(Protocol[_Told]):
    """What comes next in a call."""

    async def open(self) -> None:
        """Do what can be done before anything is waited for; does nothing the second time."""

    async def next(self) -> _Told | None:
        """What comes next; None after the last, and once it is cancelled. Opens what is not open."""

    def cancel(self) -> None:
        """What has not come yet is not wanted; may be called at any time."""


class Stream(Iterator[_Item]):
    def __init__(self, answers: Answers[_Item]) -> None:
        self._answers = answers
        run(answers.open())

    def __next__(self) -> _Item:
        item = run(self._answers.next())
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """Cancels what has not come yet; the iteration ends. Does nothing to a stream that has ended."""
        self._answers.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._answers.cancel()

    def __del__(self) -> None:
        self._answers.cancel()


class AsyncStream(AsyncIterator[_Item]):
    def __init__(self, answers: Answers[_Item]) -> None:
        self._answers = answers

    async def __anext__(self) -> _Item:
        item = await self._answers.next()
        if item is None:
            raise StopAsyncIteration
        return item

    async def close(self) -> None:
        """Cancels what has not come yet; the iteration ends. Does nothing to a stream that has ended."""
        self._answers.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._answers.cancel()

    def __del__(self) -> None:
        with suppress(RuntimeError):  # its event loop is closed, and the call with it
            self._answers.cancel()
