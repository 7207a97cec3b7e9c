"""Load on a server, and what became of it: callers that wait for their answers, or calls that come whatever becomes of
those before them.
"""

from __future__ import annotations

import asyncio
import csv
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np

from ancestral_client.errors import AncestralError

Ask = Callable[[], Awaitable[Any]]

OK, UNFINISHED = "ok", "unfinished"
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
# Calls in flight of an open loop: their memory is bounded where a server answers nobody. Those that wait for a place
# wait, and their latency counts from when they were due.
_MOST_IN_FLIGHT = 10_000


class Call(NamedTuple):
    """Times are seconds since the load began."""

    due: float
    """When it should have begun: of callers that wait, when it did."""
    begun: float
    ended: float
    outcome: str
    """"ok", the error's name, or "unfinished" at the end."""

    @property
    def latency(self) -> float:
        """Seconds from when it was due: who comes late because others were slow has waited, too."""
        return self.ended - self.due


class Load:
    """Calls `ask` again and again, on the clock of the event loop. Ends at most `patience` seconds after `seconds`."""

    def __init__(self, ask: Ask, seconds: float, patience: float) -> None:
        self.calls: list[Call] = []
        self.problem: AncestralError | None = None
        """The first that a call failed with."""
        self._ask = ask
        self._seconds = seconds
        self._patience = patience
        self._began = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def closed(self, concurrency: int) -> list[Call]:
        """So many callers, each of which waits for its answer before it calls again (closed loop)."""
        self._began = asyncio.get_running_loop().time()
        await self._finish([asyncio.create_task(self._caller()) for _ in range(concurrency)])
        return self.calls

    async def open(self, rate: float, random: np.random.Generator) -> list[Call]:
        """Calls at random times, so many a second on average, whatever becomes of those before (open loop)."""
        self._began = asyncio.get_running_loop().time()
        room, tasks = asyncio.Semaphore(_MOST_IN_FLIGHT), set[asyncio.Task[None]]()
        due = random.exponential(1 / rate)
        while due < self._seconds:
            await asyncio.sleep(max(0.0, due - self.now()))
            task = asyncio.create_task(self._due(due, room))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += random.exponential(1 / rate)
        await self._finish(list(tasks))
        return self.calls

    async def _caller(self) -> None:
        while (due := self.now()) < self._seconds:
            await self._call(due)

    async def _due(self, due: float, room: asyncio.Semaphore) -> None:
        begun = False
        try:
            async with room:
                begun = True
                await self._call(due)
        except asyncio.CancelledError:
            if not begun:
                self.calls.append(Call(due, self.now(), self.now(), UNFINISHED))
            raise

    async def _call(self, due: float) -> None:
        begun, outcome = self.now(), UNFINISHED
        try:
            await self._ask()
            outcome = OK
        except AncestralError as error:
            outcome, self.problem = type(error).__name__, self.problem or error
        finally:
            self.calls.append(Call(due, begun, self.now(), outcome))

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        """Waits for what has begun, and no longer than it may; raises what went wrong otherwise."""
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=max(0.0, self._seconds - self.now()) + self._patience)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the calls that were due after the warming up."""

    calls: int
    answered: int
    outcomes: dict[str, int]
    calls_per_second: float
    """Of those that were answered."""
    offered_per_second: float
    """Of those that were due."""
    latency_ms: dict[str, float]
    """Percentiles, mean and most of the answered calls, from when they were due."""
    late_ms: float
    """99th percentile of how long after it was due a call began: of an open loop, whether this machine kept up."""


def report(calls: Sequence[Call], seconds: float, warm_up: float) -> Report:
    """Of a load of so many seconds, without those of the warming up."""
    counted = [call for call in calls if call.due >= warm_up]
    answered = [call for call in counted if call.outcome == OK]
    latencies = np.array([call.latency for call in answered]) * 1000
    shares = {f"p{share:g}": float(np.percentile(latencies, share)) for share in PERCENTILES} if answered else {}
    more = {"mean": float(latencies.mean()), "max": float(latencies.max())} if answered else {}
    window = seconds - warm_up
    in_time = sum(call.ended <= seconds for call in answered)
    late = [(call.begun - call.due) * 1000 for call in counted]
    return Report(
        calls=len(counted),
        answered=len(answered),
        outcomes=dict(Counter(call.outcome for call in counted)),
        calls_per_second=in_time / window,
        offered_per_second=len(counted) / window,
        latency_ms=shares | more,
        late_ms=float(np.percentile(late, 99)) if late else 0.0,
    )


def write_csv(file: IO[str], calls: Sequence[Call]) -> None:
    """A line for each call, in the order in which they were due."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("due_s", "begun_s", "ended_s", "latency_ms", "outcome"))
    for call in sorted(calls):
        times = (f"{value:.6f}" for value in (call.due, call.begun, call.ended))
        writer.writerow((*times, f"{call.latency * 1000:.3f}", call.outcome))
