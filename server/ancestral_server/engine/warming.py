"""The first runs of a lane, before anybody is served."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from ancestral_server.engine.costs import Costs
from ancestral_server.engine.room import Room
from ancestral_server.errors import OutOfMemory
from ancestral_server.metrics import LaneMetrics


def warm_up(
    sizes: Sequence[int],
    rooms: Sequence[Room],
    run: Callable[[int], float],
    costs: Costs,
    metrics: LaneMetrics,
) -> bool:
    """Run every size twice, so that no caller pays for a first run and the cost of each is known.

    run: seconds of a run of so many rows. False if the last sizes do not fit into memory; they bound the rooms then.
    OutOfMemory if not even the first one does.
    """
    for size in sizes:
        try:
            run(size)
            costs.learn(size, run(size))
        except OutOfMemory:
            metrics.out_of_memory.inc()
            if not all(room.shrink(size) for room in rooms):
                raise
            give_back(rooms[0], run)
            return False
    return True


def give_back(room: Room, run: Callable[[int], float]) -> None:
    """Leave to others the memory that a run which did not fit had taken: it goes back at the end of the next one."""
    with contextlib.suppress(OutOfMemory):
        run(room.most)
