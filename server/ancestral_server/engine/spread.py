"""A batch loop that has bulk computed by several workers at a time."""

from __future__ import annotations

import threading
from typing import Any

from ancestral_server.engine.batch import Hand
from ancestral_server.engine.batch_loop import BULK_SECONDS, BatchLoop
from ancestral_server.engine.costs import Costs
from ancestral_server.engine.job import Priority
from ancestral_server.runtime.program import OneShotProgram

# The event loop reads and answers no faster than a few workers run.
MOST_WORKERS = 4
# How often a size is run at load to see what it takes.
LOOKS = 4


class SpreadBatchLoop(BatchLoop):
    """Two threads on one short run are hardly faster than one: they meet after every operation, and whoever is late,
    since the event loop or the caller has its core, is waited for. Two runs on a core each get nearly twice as much
    done. So where much of bulk is queued and no single call comes, each worker computes on its own thread.

    The first worker is the lane's; the helpers take what is queued while it runs, full batches only.
    """

    def __init__(self, *arguments: Any, helpers: int = 0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._most_helpers = min(helpers, MOST_WORKERS - 1)
        # The same graph on a session that computes on the thread that calls it, None where runs are too long for that;
        # what its runs cost, and how many rows one may have. Bulk is spread where there are helpers.
        self._light: OneShotProgram | None = None
        self._light_costs = Costs()
        self._light_rows = 0
        # Not the lane's own condition, or every call that wakes the lane would wake the helpers too.
        self._bulk_queued = threading.Condition(self._lock)

    @property
    def rows_at_a_time(self) -> int:
        """How many rows of bulk are run at a time, by all workers."""
        return len(self._hands) * self._light_rows if self._helpers else self._run_sizes[-1]

    def lighten(self, program: OneShotProgram) -> None:
        """Run on `program`, which computes on the thread that calls it, what is short or bulk. Warms it up."""
        # A single call that comes meanwhile waits for such a run.
        longest = max(BULK_SECONDS, self._batch_seconds)
        for rows in (self._room.most,) if self._fixed else self._buckets:
            if rows > self._room.most:
                break
            # The first is slow in itself; and others, for what else the machine does.
            seconds = min(self._run_blank(rows, program) for _ in range(LOOKS))
            if seconds > longest:
                break
            self._light_costs.learn(rows, seconds)
            self._light_rows = rows
        if self._light_rows:
            self._light = program
            self._helpers = self._most_helpers
            self._hands += [Hand() for _ in range(self._helpers)]

    def _wake_all(self) -> None:
        super()._wake_all()
        self._bulk_queued.notify_all()

    def _arrived(self) -> None:
        super()._arrived()
        self._call_helper()

    def _call_helper(self) -> None:
        """Wake a helper if there is work for it. The lock is held."""
        if self._helpers and self._queue.rows[Priority.BATCH] and self._needs_help():
            self._bulk_queued.notify()

    def _needs_help(self) -> bool:
        """Whether a full batch of bulk waits for the lane's worker, and nobody minds that a helper takes it."""
        rows = self._queue.rows
        busy = bool(self._hands[0].pieces)
        return busy and rows[Priority.BATCH] >= self._quantum and not rows[Priority.INTERACTIVE] and self._cores.calm

    def _turn(self, worker: int) -> None:
        hand = self._hands[worker]
        if worker:
            self._admit_bulk(hand)
        else:
            self._admit(hand)
        if self._light is not None and hand.alone:
            self._run_all(hand, self._light, self._light_costs)
        else:
            self._run_all(hand, self._program, self._costs)

    def _admit_bulk(self, hand: Hand) -> None:
        with self._changed:
            while not self._closing and not self._needs_help():
                # Asked anew at every run of the lane's worker, if single calls have kept it asleep meanwhile.
                self._bulk_queued.wait()
            if not self._closing:
                self._drop_departed()
                self._take(hand)

    def _take(self, hand: Hand) -> None:
        hand.alone = self._spreads(hand)
        super()._take(hand)
        self._call_helper()

    def _spreads(self, hand: Hand) -> bool:
        """Whether the next run is one of several. The lock is held."""
        rows = self._queue.rows
        if not self._helpers or rows[Priority.INTERACTIVE] or not self._cores.calm:
            return False
        others = any(other.pieces for other in self._hands if other is not hand)
        return others or rows[Priority.BATCH] > self._light_rows

    def _most(self, hand: Hand) -> int:
        return self._light_rows if hand.alone else super()._most(hand)
