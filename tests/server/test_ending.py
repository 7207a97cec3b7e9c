"""The time of the end, in numbers: by its plan, and by a clock on which nothing takes time but waiting."""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ancestral_server import app
from ancestral_server.catalog import Catalog, ModelVersion, State
from ancestral_server.ending import Ending
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.metrics import Metrics
from ancestral_server.rpc.draining import Draining
from ancestral_server.rpc.grpc_workarounds import sockets
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings


@pytest.mark.parametrize(
    ("seconds", "work", "words"),
    [(0, 0, 0.5), (0.2, 0, 0.5), (0.5, 0, 0.5), (1, 0.5, 0.5), (5, 4.5, 0.5), (10, 9, 1), (30, 28, 2), (600, 598, 2)],
)
def test_the_end_is_within_its_time_and_leaves_some_for_the_last_words(
    seconds: float, work: float, words: float
) -> None:
    ending = Ending.begin(100.0, seconds)
    assert ending.over == 100 + max(seconds, 0.5)
    assert ending.work_left(100.0) == pytest.approx(work)
    assert ending.words == pytest.approx(words)
    # What was spent before is not spent twice.
    assert ending.work_left(100.2) == pytest.approx(max(0, work - 0.2))
    assert ending.work_left(1000.0) == 0


class Leaping(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own, which leaps to the next timer where there is nothing else to do."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(timeout and 0)
                if timeout and not ready:
                    loop.now += timeout
                return ready

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


def elapsed(work: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that it waits."""
    with asyncio.Runner(loop_factory=Leaping) as runner:
        loop: Any = runner.get_loop()
        monkeypatch.setattr(time, "monotonic", lambda: loop.now)

        async def main() -> None:
            await work()

        runner.run(main())
        monkeypatch.undo()
        return float(loop.now)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 5.0, 30.0])
def test_calls_that_never_end_answers_that_nobody_reads_and_callers_that_go_on_sending_take_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async def work() -> None:
        settings = Settings(models=tmp_path, device="cpu")
        catalog, draining = Catalog(settings, Runtime("cpu", 1), Metrics("test"), Arrivals()), Draining()
        model = catalog.versions["held", 1] = ModelVersion("held", 1, State.SERVING)
        draining.open, draining.cut_short = 1, True
        with model:
            ending = Ending.begin(time.monotonic(), seconds)
            await catalog.drain(ending.work_left(time.monotonic()), ending.words)
            await draining.heard(ending.over)

    # As a client sees to it that stops reading, and one that sends without an end.
    monkeypatch.setattr(sockets, "unsent", lambda: 1000)
    monkeypatch.setattr(sockets, "quiet_seconds", lambda: 0.0)
    assert elapsed(work, monkeypatch) == pytest.approx(max(seconds, 0.5), abs=1e-6)


def test_where_nobody_waits_the_end_takes_a_tenth_of_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "unsent", lambda: 0)
    assert elapsed(lambda: Draining().heard(time.monotonic() + 30), monkeypatch) == pytest.approx(0.1)


def test_those_who_go_on_sending_on_other_connections_are_not_waited_for_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draining = Draining()
    draining.cut_short = True
    monkeypatch.setattr(sockets, "unsent", lambda: 0)
    monkeypatch.setattr(sockets, "quiet_seconds", lambda: 0.0)
    assert elapsed(lambda: draining.heard(time.monotonic() + 30), monkeypatch) == pytest.approx(5.1)


def test_an_end_that_may_take_for_ever_is_watched_too() -> None:
    before = set(threading.enumerate())
    app._end_at(time.monotonic() + 1e18)
    (watching,) = (each for each in threading.enumerate() if isinstance(each, threading.Timer) and each not in before)
    watching.cancel()
    # It ends by that, and not by an error.
    watching.join()
