"""Static batching, to compare with: the same engine, admitting only into an empty batch."""

from __future__ import annotations

from typing import Any

from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.engine.slots import Slots


class StaticLoop(RasterLoop):
    """Takes what is queued when nothing runs, shares it among the workers, and nobody else until it is painted."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # Samples of the present batch that no worker has taken yet.
        self._open = 0

    def _admit(self, slots: Slots) -> None:
        with self._changed:
            if slots.used:
                return
            while not self._open and not self._closing:
                if self._queue and not self.used:
                    self._open = min(self._queue.total_rows, self.capacity)
                    self._changed.notify_all()
                else:
                    self._sleep(1, None)
            self._fill(slots, self._open)
            self._open = max(0, self._open - slots.used)

    def _run_and_retire(self, worker: int, slots: Slots) -> None:
        super()._run_and_retire(worker, slots)
        if not self.used:
            with self._changed:
                self._changed.notify_all()
