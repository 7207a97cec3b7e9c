"""The operating system's view of a lane's threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

# What computes gives way to the event loop, which has to say yes or no at once however busy the cores are; and a
# sampler, whose rows take long, to runs that somebody waits for.
RUNS, ROWS = 5, 10


def give_way(niceness: int) -> None:
    """Let the calling thread, and those that it starts, be nicer than the process by so much, where the system knows of
    such a thing.
    """
    if sys.platform == "linux":
        # On Linux niceness is a thread's own, and raising it needs no privileges.
        with contextlib.suppress(OSError):
            wanted = min(19, os.getpriority(os.PRIO_PROCESS, os.getpid()) + niceness)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), wanted)
