"""A request's work in one lane: one object remembers everything about it, and nothing else does."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ancestral_server.runtime.noise import uniforms, uniforms_of_range
from ancestral_server.runtime.program import Meaning
from ancestral_server.runtime.session import Array


@dataclass(frozen=True, slots=True)
class NoiseStreams:
    """Noise by the row: row i of a request is the start of stream (seed, first + i), or of (seed, indices[i])."""

    seed: int
    first: int
    shape: tuple[int, ...]
    indices: Sequence[int] | None = None

    def rows(self, start: int, stop: int) -> Array:
        if self.indices is not None:
            return np.stack([uniforms(self.seed, index, self.shape) for index in self.indices[start:stop]])
        return uniforms_of_range(self.seed, self.first + start, stop - start, self.shape)


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
    # Rows in the largest run that held any of these, without padding; 0 before the first.
    batch_size: int = 0

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
            # Of a job that is answered it changes nothing.
            self.leave()

    def leave(self) -> None:
        """Nobody waits for the answer any more."""
        self.cancelled = True
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # seen, or asyncio would report it as lost


@dataclass(slots=True, eq=False)
class OneShotJob(Job):
    """Inputs by meaning, axis 0 = rows: an array, or streams that are drawn when the rows are taken."""

    inputs: Mapping[Meaning, Array | NoiseStreams] = field(default_factory=dict)
    wanted: Sequence[Meaning] = ()
    # Per wanted meaning the answered pieces, by their first row.
    pieces: dict[Meaning, dict[int, Array]] = field(default_factory=dict)

    def input_rows(self, meaning: Meaning, start: int, stop: int) -> Array | None:
        source = self.inputs.get(meaning)
        if source is None:
            return None
        return source.rows(start, stop) if isinstance(source, NoiseStreams) else source[start:stop]

    def output(self, meaning: Meaning) -> Array:
        """The whole answer [rows, ...]."""
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
