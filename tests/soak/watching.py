"""What a process uses, read from /proc: resident memory, threads, open files, processor time."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Usage:
    rss_mib: float
    threads: int
    files: int
    cpu_seconds: float


def usage(pid: int) -> Usage:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    # After the name in parentheses: user and system time are fields 14 and 15 of the whole line, in clock ticks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(
        rss_mib=int(status["VmRSS"].split()[0]) / 1024,
        threads=int(status["Threads"]),
        files=len(os.listdir(f"/proc/{pid}/fd")),
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
    )


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process, to the nanosecond; /proc counts hundredths of a second."""
    # How the kernel makes the number of a process's clock: MAKE_PROCESS_CPUCLOCK of linux/posix-timers.h.
    return time.clock_gettime((~pid << 3) | 2)


class Watch:
    """Looks at a process every so often, in a thread of its own, until the block ends."""

    def __init__(self, pid: int, every_seconds: float = 0.5) -> None:
        self._pid = pid
        self._every = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.seen: list[Usage] = [usage(pid)]

    def _look(self) -> None:
        while not self._over.wait(self._every):
            self.seen.append(usage(self._pid))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
