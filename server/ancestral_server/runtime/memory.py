"""Giving memory back to the operating system. Only glibc needs to be told; elsewhere nothing here does anything."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

# Blocks from so many bytes on, such as weights, are mapped each on its own and leave no hole behind. What glibc does by
# itself ends there too: whenever such a block is freed it takes it for a short-lived one, and henceforth cuts blocks of
# that size out of its arenas, which only shrink as far as the last block in use.
APART_BYTES = 1 << 20
# As a container sees its own: version 2 and version 1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def _glibc(name: str, *arguments: Any) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):  # musl has none
        return None
    function.argtypes, function.restype = arguments, ctypes.c_int
    return cast(Callable[..., int], function)


_trim = _glibc("malloc_trim", ctypes.c_size_t)
_tune = _glibc("mallopt", ctypes.c_int, ctypes.c_int)


def total() -> float:
    """Bytes of memory that this process may ever have: the machine's, or its control group's; infinite if unknown."""
    try:
        limits = [float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))]
    except (ValueError, OSError, AttributeError):
        return math.inf
    for path in _LIMITS:
        # Absent elsewhere; "max" without a limit.
        with contextlib.suppress(OSError, ValueError):
            limits.append(float(path.read_text()))
    return min(limits)


def keep_little(cores: int) -> None:
    """From now on, have large blocks go back to the system as soon as they are freed, and small ones share as many
    arenas as threads can run at once. glibc would open eight for each core as the threads of one version of a model
    after the other come, and in each of them a little of what was freed stays.
    """
    if _tune is not None:
        _tune(_M_MMAP_THRESHOLD, APART_BYTES)
        _tune(_M_ARENA_MAX, max(2, cores))


def give_back() -> None:
    """Return what was freed: glibc keeps it for itself otherwise. Takes milliseconds, without the GIL."""
    if _trim is not None:
        _trim(0)
