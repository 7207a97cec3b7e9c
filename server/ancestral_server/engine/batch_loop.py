"""The lane of a one-shot role: take what is queued, stack, pad to a bucket, run, split.

Letters: B rows of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import structlog

from ancestral_server.engine import policy
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.batch import Hand, Piece, cut, deal, stack, wanted_of
from ancestral_server.engine.cores import Cores
from ancestral_server.engine.costs import Costs
from ancestral_server.engine.crowd import Crowd
from ancestral_server.engine.job import OneShotJob, Priority
from ancestral_server.engine.lane import Lane
from ancestral_server.engine.room import Room
from ancestral_server.engine.warming import give_back, warm_up
from ancestral_server.errors import Internal, OutOfMemory, Overdue
from ancestral_server.metrics import LaneMetrics
from ancestral_server.runtime.program import OneShotProgram

log = structlog.get_logger()

# A run of bulk alone may hold twice a batch where it takes no longer than this: it gets more done, and hardly holds up
# a single call that comes meanwhile.
BULK_SECONDS = 0.005


class BatchLoop(Lane[OneShotJob]):
    """Dynamic batching. A request larger than a batch is split over several, never refused.

    fixed: every run is of `max_batch` rows, whoever asked for few. On a GPU that costs about as much; another size may
    change the last bits of a row, and has onnxruntime build cuDNN's plans anew (microsoft/onnxruntime#23006).
    """

    def __init__(
        self,
        name: str,
        program: OneShotProgram,
        metrics: LaneMetrics,
        *,
        max_batch: int,
        limits: Limits,
        wait: float,
        arrivals: Arrivals,
        cores: Cores,
        fixed: bool = False,
    ) -> None:
        super().__init__(name, metrics, limits)
        self._program = program
        self._buckets = policy.buckets(max_batch)
        self._fixed = fixed
        self._quantum = max_batch
        # Those of bulk too.
        self._run_sizes = self._buckets
        self._room = Room(self._buckets)
        # Nobody is refused before a full batch waits, unless by a bound that is lower still.
        self._sure_rows = min(max_batch, limits.images, limits.calls)
        self._longest_wait = wait
        self._arrivals = arrivals
        self._cores = cores
        # By worker.
        self._hands = [Hand()]
        # When the batch that is being gathered began to wait, and how many requests complete it.
        self._waits_since = 0.0
        self._complete = 1
        self._crowd = Crowd()
        # Rows for which a batch waits at most; from the measured costs, looked at anew now and then.
        self._enough = self._buckets[-1]

    @property
    def rows_at_a_time(self) -> int:
        """How many rows of bulk are run at a time."""
        return self._run_sizes[-1]

    def submit(self, job: OneShotJob) -> None:
        super().submit(job)
        if job.priority is Priority.INTERACTIVE:
            self._cores.called(job.submitted)

    def warm_up(self) -> None:
        """Run every bucket twice, so that no caller pays for a first run and the cost of each is known.

        A bucket that does not fit into memory bounds the batches; OutOfMemory if one row does not.
        """
        warm = warm_up(self._buckets, [self._room], self._run_blank, self._costs, self.metrics)
        if warm and self._batch_seconds <= BULK_SECONDS and not self._fixed:
            self._warm_up_bulk(2 * self._buckets[-1])

    def _warm_up_bulk(self, rows: int) -> None:
        """Let runs of bulk hold so many rows, where that is worth it."""
        try:
            self._run_blank(rows)
            seconds = self._run_blank(rows)
        except OutOfMemory:
            give_back(self._room, self._run_blank)
            return
        if seconds <= BULK_SECONDS:
            self._costs.learn(rows, seconds)
            self._run_sizes = (*self._buckets, rows)
            self._room = Room(self._run_sizes)

    def _run_blank(self, rows: int, program: OneShotProgram | None = None) -> float:
        """Run so many rows in every form of the program; the seconds of the whole one."""
        seconds = 0.0
        for form in (program or self._program).forms:
            inputs = {meaning: form.blank(meaning, rows) for meaning in form.inputs}
            began = time.monotonic()
            outputs = form.run(inputs, list(form.outputs))
            seconds = time.monotonic() - began
            form.check_outputs(outputs, rows)
        return seconds

    def _probe(self) -> None:
        self._run_blank(self._size(1))

    def _surely_fits(self, job: OneShotJob) -> bool:
        # At most the run that goes on and one full one are before the answer, which most deadlines leave time for.
        return (
            self._queue.rows[job.priority] + job.rows <= self._sure_rows
            and job.deadline - job.submitted > 2 * self._batch_seconds
            and job.priority is Priority.INTERACTIVE
        )

    def _needed_seconds(self, rows: int, ahead: int) -> float:
        until = self._hands[0].busy_until
        running = max(0.0, until - time.monotonic()) if until else 0.0
        return running + self._queue_seconds(ahead + rows)

    def _queue_seconds(self, rows: int) -> float:
        most = min(self._room.most, self._buckets[-1])
        whole, rest = divmod(rows, most)
        return whole * self._costs.seconds(most) + (self._run_seconds(rest) if rest else 0.0)

    @property
    def _batch_seconds(self) -> float:
        return self._costs.seconds(self._buckets[-1])

    @property
    def _row_seconds(self) -> float:
        return self._batch_seconds / self._buckets[-1]

    @property
    def _running(self) -> bool:
        return any(hand.busy_until for hand in self._hands)

    def _turn(self, worker: int) -> None:
        hand = self._hands[worker]
        self._admit(hand)
        self._run_all(hand, self._program, self._costs)

    def _in_hand(self, worker: int) -> Iterable[OneShotJob]:
        jobs = self._hands[worker].jobs
        self._hands[worker] = Hand()
        return jobs

    def _admit(self, hand: Hand) -> None:
        with self._changed:
            self._wait_for_work()
            self._waits_since = time.monotonic()
            while not self._closing and (seconds := self._seconds_to_wait()) > 0:
                # Woken before the time is up only by the arrival that completes the crowd, not by each.
                self._sleep(self._complete if len(self._queue) < self._complete else self._enough, seconds)
            self._drop_departed()
            self._take(hand)

    def _seconds_to_wait(self) -> float:
        """How long this batch should wait for others. The lock is held."""
        if self._queue.total_rows >= self._enough:
            return 0.0
        crowd = self._crowd.expected if self._crowd.probes else self._company()
        self._complete = math.ceil(min(policy.CROWD_SHARE * crowd, self._enough))
        now = time.monotonic()
        return policy.batch_wait(
            queued=len(self._queue),
            coming=self._arrivals.coming(now),
            crowd=crowd,
            waited=now - self._waits_since,
            since_arrival=now - self._last_arrival,
            longest=self._longest_wait,
            run=self._run_seconds(min(self._crowd.known, self._enough)),
        )

    def _company(self) -> int:
        """How many requests a batch should wait for."""
        return policy.company(self._crowd.known, self._run_seconds)

    def _run_seconds(self, rows: int) -> float:
        return self._costs.seconds(self._bucket(rows))

    def _bucket(self, rows: int) -> int:
        """How many rows a run for so many has, unless it is of bulk alone."""
        return self._room.most if self._fixed else policy.bucket(rows, self._buckets)

    def _size(self, rows: int) -> int:
        """How many rows a run for so many has."""
        return self._room.most if self._fixed else policy.bucket(rows, self._run_sizes)

    def _take(self, hand: Hand) -> None:
        """As much of what is queued as a run may have. The lock is held."""
        most = min(self._room.most, self._most(hand))
        room = most
        if not self._fixed:
            room = policy.fill(self._queue.total_rows, most, self._run_sizes, self._costs.seconds)
        for jobs in self._queue.order():
            while room and jobs:
                job = jobs[0]
                rows = min(room, job.waiting)
                hand.pieces.append(Piece(job, job.taken, job.taken + rows))
                self._take_rows(job, rows)
                room -= rows

    def _most(self, hand: Hand) -> int:
        """How many rows the next run may hold, if they fit into memory."""
        return (self._buckets if self._queue.rows[Priority.INTERACTIVE] else self._run_sizes)[-1]

    def _run_all(self, hand: Hand, program: OneShotProgram, *costs: Costs) -> None:
        """Run what is in a hand, and answer. costs: of such runs, the first to be reckoned with."""
        while hand.pieces:
            self._run_and_retire(hand, program, costs)
            self._next_part(hand)

    def _run_and_retire(self, hand: Hand, program: OneShotProgram, costs: Sequence[Costs]) -> None:
        pieces, rows = hand.pieces, sum(piece.rows for piece in hand.pieces)
        size = self._size(rows)
        began = time.monotonic()
        hand.busy_until = began + costs[0].seconds(size)
        try:
            wanted = wanted_of(pieces)
            form = program.form(wanted)
            inputs = stack(form, pieces, size)
            gathered = time.monotonic()
            outputs = form.run(inputs, wanted)
        except (OutOfMemory, MemoryError) as error:
            self._split(hand, rows, size, error)
            return
        except RuntimeError as error:
            self._suspect(hand, rows, error)
            return
        except Exception as error:
            log.exception("run failed", lane=self.name, rows=rows)
            self._give_up(list(hand.drop()), Internal(f"{self.name}: the run failed: {error}"))
            return
        ran = time.monotonic()
        for known in costs:
            known.learn(size, ran - began)
        with self._lock:
            self.metrics.batch_size.observe(rows)
            finished = deal(pieces, outputs)
        self.stats.ran(rows, len(pieces), began=began, gathered=gathered, ran=ran, done=time.monotonic())
        # Before the post: afterwards the answered callers send again.
        if hand is self._hands[0]:
            self._look_around(len(pieces))
        self._finish(finished)
        # Last: whatever fails above, the lane knows whom to answer.
        hand.drop()

    def _look_around(self, together: int) -> None:
        """Learn from a run for so many requests how many there are, and now and then how many are worth waiting for."""
        self._crowd.seen(together + len(self._queue))
        if self._crowd.probes:
            self._enough = policy.enough(self._buckets, self._run_seconds)

    def _split(self, hand: Hand, rows: int, size: int, error: Exception) -> None:
        """A run did not fit into memory: the same rows again, half as many at a time. Nobody hears of it, unless not
        even one row fits.
        """
        self.metrics.out_of_memory.inc()
        smaller = self._room.shrink(size)
        log.warning("out of memory", lane=self.name, rows=rows, next_rows=self._room.most, reason=str(error))
        if smaller:
            hand.pieces, hand.postponed = [], hand.pieces + hand.postponed
        else:
            none_fits = OutOfMemory(f"{self.name}: not even {rows} image fits into memory: {error}")
            self._give_up(list(hand.drop()), none_fits)

    def _suspect(self, hand: Hand, rows: int, error: RuntimeError) -> None:
        """A run failed: its halves again, each by itself, and so on. So whoever is to blame hears of it and nobody
        else. One guilty call among n costs 2 log2(n) runs, n of them 2 n.
        """
        pieces = hand.pieces
        if len(pieces) > 1 and not isinstance(error, Overdue):
            log.warning("run failed, its parts are tried", lane=self.name, rows=rows, reason=str(error))
            middle = len(pieces) // 2
            hand.pieces, hand.suspects = [], [pieces[:middle], pieces[middle:], *hand.suspects]
            return
        log.error("run failed", lane=self.name, rows=rows, exc_info=error)
        self._give_up(list(hand.drop()), Internal(f"{self.name}: the run failed: {error}"))

    def _next_part(self, hand: Hand) -> None:
        """Take up a part of a batch that failed, or as much of one that did not fit into memory as a run may have;
        those who have left meanwhile are left out.
        """
        while not hand.pieces and (hand.suspects or hand.postponed):
            if not hand.postponed:
                hand.postponed = hand.suspects.pop(0)
            now = time.monotonic()
            departed = {id(piece.job): piece.job for piece in hand.postponed if piece.job.departed(now)}
            with self._changed:
                self._expire(departed.values())
            left = [piece for piece in hand.postponed if id(piece.job) not in departed]
            hand.pieces, hand.postponed = cut(left, self._room.most)
