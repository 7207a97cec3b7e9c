from __future__ import annotations

import threading
import time

from ancestral_server.runtime.watchdog import Watchdog
from waiting import until


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_what_is_over_its_time_is_stopped_until_it_is_done_and_the_thread_ends_with_its_watchdog() -> None:
    before = threads().count("watchdog")
    watchdog, stopped = Watchdog(), list[str]()
    watchdog.watch("overdue", time.monotonic() - 1, stopped.append)
    watchdog.watch("in time", time.monotonic() + 1000, stopped.append)
    until(lambda: stopped.count("overdue") > 1)
    assert set(stopped) == {"overdue"}
    watchdog.done("overdue")
    assert watchdog.watching == 1
    del watchdog
    until(lambda: threads().count("watchdog") <= before)
