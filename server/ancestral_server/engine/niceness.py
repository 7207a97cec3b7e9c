"""The operating system's view of a lane's threads."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def give_way(niceness: int) -> None:
    """Let the calling thread yield to others that want the same core, where the system knows of such a thing."""
    if sys.platform == "linux":
        # On Linux niceness is a thread's own, and raising it needs no privileges.
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + niceness))
