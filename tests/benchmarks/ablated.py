"""The server of a checkout with one of its heuristics switched off; nothing of this is in the product.

    python ablated.py TREE SWITCH [FLAG ...]    `ancestral-server FLAG ...` of the checkout TREE, without SWITCH

"as-is" switches nothing off. The switches are of this checkout: another one is run as it is.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import runpy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

AS_IS = "as-is"
CONTROL = "control"
# Puts another object in the place of a module's, or a class's, and raises AttributeError where there is none.
Replace = Callable[[Any, str, Any], None]


def module(name: str) -> Any:
    return importlib.import_module(f"ancestral_server.{name}")


def control(replace: Replace) -> None:
    """Nothing is switched off: by how much two equal servers differ, and what the other rows are to be held against."""


def batch_wait(replace: Replace) -> None:
    """A batch takes what is queued: no crowd is waited for."""
    immediate = module("engine.policy").Immediate
    replace(module("catalog.loader"), "Adaptive", lambda *_: immediate())


def arrivals(replace: Replace) -> None:
    """A batch does not wait for calls that are being read."""
    adaptive = module("engine.policy").Adaptive
    replace(module("catalog.loader"), "Adaptive", lambda _, tuning: adaptive(lambda now: 0, tuning))


def event_loop(replace: Replace) -> None:
    """Short runs are a thread's, too, and not the event loop's."""
    threads = module("engine.runners").ThreadRunner
    replace(module("engine.endpoint"), "LoopRunner", lambda *_: threads())


def fill(replace: Replace) -> None:
    """All queued rows are run, padded to the next size."""
    replace(module("engine.one_shot"), "fill", lambda rows, most, *_: min(rows, most))


def spare_core(replace: Replace) -> None:
    """Background work takes all cores, whatever single calls come."""
    pool = module("engine.pool")
    none = pool.PoolTuning(free_seconds=0.0)
    replace(module("catalog.loader"), "WorkerPool", partial(pool.WorkerPool, tuning=none))


def bulk_workers(replace: Replace) -> None:
    """Bulk and samplers have one worker."""
    pool = module("engine.pool").WorkerPool
    replace(module("catalog.loader"), "WorkerPool", lambda threads: pool(1))


def uvloop(replace: Replace) -> None:
    """The event loop is Python's own."""
    replace(module("cli"), "event_loop", asyncio.new_event_loop)


def event_engine(replace: Replace) -> None:
    """gRPC reads sockets on threads of its own, which is its default."""
    # gRPC's own variable, which the server leaves as it finds it; nothing has imported gRPC yet.
    os.environ["GRPC_EXPERIMENTS"] = "event_engine_listener"


def accepting(replace: Replace) -> None:
    """grpc.aio's own loop takes the calls."""
    replace(module("rpc.grpc_workarounds.accepting"), "known", lambda: False)


def malloc(replace: Replace) -> None:
    """glibc keeps its own thresholds and arenas."""
    replace(module("runtime.memory"), "keep_little", lambda cores: None)


def metrics(replace: Replace) -> None:
    """Nothing is counted, timed or logged of calls, nor of what lanes do for them."""
    replace(module("rpc.server"), "Recorders", lambda *_: module("rpc.recording").CallRecorder())
    replace(module("metrics").LaneMetrics, "record_request", lambda *_: None)
    stats = module("engine.stats").LaneStats
    # But for the rows of samplers: that is how these are measured here.
    replace(stats, "ran", lambda self, step, *_: self.metrics.batch_size.observe(step.rows))
    replace(stats, "answered", lambda *_: None)


SWITCHES: dict[str, Callable[[Replace], None]] = {
    CONTROL: control,
    "batch-wait": batch_wait,
    "arrivals": arrivals,
    "event-loop": event_loop,
    "fill": fill,
    "spare-core": spare_core,
    "bulk-workers": bulk_workers,
    "uvloop": uvloop,
    "event-engine": event_engine,
    "accepting": accepting,
    "malloc": malloc,
    "metrics": metrics,
}


def replace(owner: Any, name: str, value: Any) -> None:
    getattr(owner, name)
    setattr(owner, name, value)


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[2] not in (AS_IS, *SWITCHES):
        sys.exit(__doc__)
    tree, switch, *flags = sys.argv[1:]
    # Before what is installed, which is this checkout.
    sys.path[:0] = [os.path.join(tree, part) for part in ("protos", "server")]
    if switch != AS_IS:
        SWITCHES[switch](replace)
    sys.argv[:] = ["ancestral-server", *flags]
    runpy.run_module("ancestral_server", run_name="__main__")


if __name__ == "__main__":
    main()
