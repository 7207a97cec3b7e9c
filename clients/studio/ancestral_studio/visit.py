"""What one visitor's page knows: the models, the calls it made, what went wrong. Each page has one of its own."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ancestral.text import shown
from ancestral_client import AncestralError, AsyncClient, Info, Model
from ancestral_studio import served

LISTED = 10
"""Calls that the page lists: about a screen of a phone."""
# Seconds for a list of models, which a server gives in milliseconds.
_LIST_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was answered."""

    what: str
    info: Info
    first_seconds: float
    """Until its first answer, as the page saw it."""
    seconds: float
    """Until its last."""

    def line(self) -> str:
        info = self.info
        first = f" (first rows after {_ms(self.first_seconds)})" if self.first_seconds < self.seconds else ""
        batch = f", batch of {info.batch_size}" if info.batch_size else ""
        return shown(
            f"{self.what}, {info.model} version {info.version}: {_ms(self.seconds)}{first}; in the server "
            f"{_ms(info.total_seconds)}, of these queue {_ms(info.queue_seconds)}, "
            f"compute {_ms(info.compute_seconds)}{batch}"
        )


class Asked:
    """A call on its way."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self.info: Info | None = None

    def answered(self, info: Info) -> None:
        """The next answer, or the only one, came."""
        self.info = info
        self._last = time.perf_counter() - self._began
        self._first = self._last if self._first is None else self._first

    def call(self, what: str) -> Call | None:
        """What there is to tell of it; None where nothing came."""
        if self.info is None or self._first is None:
            return None
        return Call(what, self.info, self._first, self._last)


class Visit:
    """`client` is shared with other visitors; all else is the page's own."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.models: list[Model] = []
        """Those that can be offered."""
        self.calls: deque[Call] = deque(maxlen=LISTED)
        """The newest first."""
        self._unreachable = ""
        self._problem = ""
        self._tasks: set[asyncio.Task[object]] = set()
        self._models_changed: list[Callable[[], None]] = []
        self._news: list[Callable[[], None]] = []
        self._choices: list[Callable[[], None]] = []

    @property
    def problem(self) -> str:
        """What is wrong, in one line; empty if nothing is."""
        return self._unreachable or self._problem

    def on_models(self, changed: Callable[[], None]) -> None:
        """Calls `changed` when other models are offered than before."""
        self._models_changed.append(changed)

    def on_news(self, told: Callable[[], None]) -> None:
        """Calls `told` when there is a call or a problem to tell of."""
        self._news.append(told)

    def on_choice(self, chosen: Callable[[], None]) -> None:
        """Calls `chosen` when the open panel may have to show something else."""
        self._choices.append(chosen)

    def chosen(self) -> None:
        """Another model is chosen, or what else a panel depends on."""
        for chosen in self._choices:
            chosen()

    def tell(self, problem: str) -> None:
        """Says what is wrong, until the next call."""
        self._problem = shown(problem)
        self._tell()

    async def refresh(self) -> None:
        """Asks which models there are. Where nobody answers, those that there were stay."""
        try:
            found = served.offered(await self.client.models(timeout=_LIST_TIMEOUT))
        except AncestralError as error:
            unreachable = shown(str(error))
        else:
            unreachable = "" if found else "the server has no models that serve and whose images make a picture"
            if found != self.models:
                self.models = found
                for changed in self._models_changed:
                    changed()
        if unreachable != self._unreachable:
            self._unreachable = unreachable
            self._tell()

    @asynccontextmanager
    async def asking(self, what: str, tell: Callable[[str], None] | None = None) -> AsyncIterator[Asked]:
        """A call: how long it took is told, and what goes wrong with it is one line, for `tell` or for the page."""
        task = asyncio.current_task()
        assert task is not None
        if tell is None:
            tell = self.tell
            tell("")
        asked = Asked()
        self._tasks.add(task)
        try:
            yield asked
        except AncestralError as error:
            tell(shown(f"{what}: {error}"))
        finally:
            self._tasks.discard(task)
            call = asked.call(what)
            if call is not None:
                self.calls.appendleft(call)
                self._tell()

    def leave(self) -> None:
        """The page is gone: what it waits for is not wanted any more."""
        self._models_changed.clear()
        self._news.clear()
        self._choices.clear()
        for task in self._tasks:
            task.cancel()

    def _tell(self) -> None:
        for told in self._news:
            told()


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"
