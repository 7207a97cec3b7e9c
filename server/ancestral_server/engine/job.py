"""A request's work in one lane: one object remembers everything about it, and nothing else does."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from ancestral.bundle.noise import uniforms
from ancestral_server.engine.watch import Watch
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array


@dataclass(frozen=True, slots=True)
class NoiseStreams:
    """Noise by the row: image i of a request draws from stream (seed, first + i), or (seed, indices[i]).

    An image has `draws` rows, one after another, each of which takes the next words of its stream.
    """

    seed: int
    first: int
    shape: tuple[int, ...]
    indices: Sequence[int] | None = None
    draws: int = 1

    def rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of the request's: [stop - start, *shape] float32."""
        noise = np.empty((stop - start, *self.shape), np.float32)
        words = math.prod(self.shape)
        at = start
        while at < stop:
            image, draw = divmod(at, self.draws)
            end = min(stop, at - draw + self.draws)
            index = self.first + image if self.indices is None else self.indices[image]
            noise[at - start : end - start] = uniforms(self.seed, index, (end - at, *self.shape), draw * words)
            at = end
        return noise


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """Each row of an array so many times, one after another, as they are taken: never all of them at once."""

    array: Array
    times: int

    def rows(self, start: int, stop: int) -> Array:
        """Rows `start` to `stop` of the request's: [stop - start, ...]."""
        return self.array[np.arange(start, stop) // self.times]


# What a job brings for an input, axis 0 = rows; what makes an answer of a job's outputs.
RowSource: TypeAlias = Array | NoiseStreams | Repeated
Derived: TypeAlias = "Callable[[OneShotJob], Array]"


class Priority(enum.IntEnum):
    """Who goes first: somebody waits for the answer of an interactive job, a batch job takes what is left over."""

    INTERACTIVE = 0
    BATCH = 1


@dataclass(slots=True, eq=False)
class ProgressEvents:
    """What a streaming caller has not yet been told, from whoever runs the lane's turns to the event loop.

    Events are small and the pixels lie in the job, so a slow reader holds little memory. (i, r): row r of sample i is
    painted; (i, None): sample i is finished.
    """

    rows: bool
    events: deque[tuple[int, int | None]] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class Job:
    """`rows` images of work. Made on the event loop's thread; from `Lane.submit` on the lane's scheduler owns all but
    `cancelled` (set by the event loop, read by the scheduler), and writes it with the lane's lock held, until `future`
    is done.
    """

    rows: int
    # Done when the job is: the answer lies in the job.
    future: asyncio.Future[None]
    # time.monotonic() seconds.
    deadline: float = math.inf
    cancelled: bool = False
    priority: Priority = Priority.INTERACTIVE
    # For a caller that is told how the job gets on.
    feed: ProgressEvents | None = None

    submitted: float = field(default_factory=time.monotonic)
    started: float = 0.0
    finished: float = 0.0

    # Rows handed to a run, rows answered.
    taken: int = 0
    done: int = 0
    # The lane has given its answer: a result or an error.
    answered: bool = False
    # Rows of an image, one after another: those of several draws.
    draws: int = 1
    # Rows in the largest run that held any of these, without padding; 0 before the first.
    batch_size: int = 0
    # Who wants to know of each run of the job, if anybody does.
    watch: Watch | None = None

    @property
    def waiting(self) -> int:
        """Rows that no run has taken yet."""
        return self.rows - self.taken

    @property
    def queue_seconds(self) -> float:
        return self.started - self.submitted

    @property
    def compute_seconds(self) -> float:
        return self.finished - self.started

    def departed(self, now: float) -> bool:
        """Nobody waits for the answer any more, or its time is up."""
        return self.cancelled or self.answered or now >= self.deadline

    # ---- for whoever has submitted it, on the event loop

    async def answer(self) -> None:
        """Wait until the job is done, and its answer lies in it. ServerError if it expires or fails."""
        try:
            await self.future
        except asyncio.CancelledError:
            self.cancelled = True
            raise

    async def events(self) -> AsyncGenerator[tuple[int, int | None]]:
        """What happens to a job that has a feed, as it happens, until it is answered, well or not: see
        `ProgressEvents`. Whoever stops listening before that has left.
        """
        feed = self.feed
        assert feed is not None, "to be watched a job needs a feed"
        self.future.add_done_callback(lambda _: feed.changed.set())
        try:
            over = False
            while not over:
                await feed.changed.wait()
                feed.changed.clear()
                over = self.future.done()
                while feed.events:
                    yield feed.events.popleft()
        finally:
            # Leaving changes nothing of a job that has been answered.
            self.leave()

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self.cancelled = True
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # seen, or asyncio would report it as lost


@dataclass(slots=True, eq=False)
class OneShotJob(Job):
    """Inputs by meaning, axis 0 = rows: an array, or what makes the rows when they are taken."""

    inputs: Mapping[Meaning, RowSource] = field(default_factory=dict)
    wanted: Sequence[Meaning] = ()
    # Answers that no graph gives; see `derive`.
    derived: Mapping[Meaning, Derived] = field(default_factory=dict)
    # Per wanted meaning the answered pieces, by their first row.
    pieces: dict[Meaning, dict[int, Array]] = field(default_factory=dict)

    def input_rows(self, meaning: Meaning, start: int, stop: int) -> Array | None:
        source = self.inputs.get(meaning)
        if source is None:
            return None
        return source[start:stop] if isinstance(source, np.ndarray) else source.rows(start, stop)

    def derive(self) -> None:
        """Make what is derived of the outputs, once they are all there."""
        for meaning, made in self.derived.items():
            self.pieces[meaning] = {0: made(self)}

    def output(self, meaning: Meaning) -> Array:
        """The whole answer [rows, ...]; of what is derived, when that has been made, whatever its shape is."""
        pieces = self.pieces[meaning]
        return pieces[0] if len(pieces) == 1 else np.concatenate([pieces[start] for start in sorted(pieces)])


@dataclass(frozen=True, slots=True)
class Completion:
    """Pixels to keep: given [1 or N,H,W,C] uint8 where known [1 or N,H,W,C] bool is true."""

    given: Array
    known: Array

    def of(self, sample: int) -> tuple[Array, Array]:
        """The pair [H,W,C] of one sample."""
        return self.given[sample % len(self.given)], self.known[sample % len(self.known)]


@dataclass(slots=True, eq=False)
class RasterJob(Job):
    """`rows` samples of a raster program, sample i drawn from stream (seed, first_index + i), or (seed, indices[i])."""

    seed: int = 0
    first_index: int = 0
    indices: Sequence[int] | None = None
    temperature: float = 1.0
    label: int = 0
    completion: Completion | None = None
    # Filled as samples finish: [rows,H,W,C] uint8 and [rows] float32, nats.
    images: Array = field(default_factory=lambda: np.empty(0, np.uint8))
    log_likelihood: Array = field(default_factory=lambda: np.empty(0, np.float32))

    def stream(self, sample: int) -> int:
        """Which of the seed's streams a sample is drawn from."""
        return self.first_index + sample if self.indices is None else self.indices[sample]
