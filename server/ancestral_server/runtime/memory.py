"""Giving memory back to the operating system."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable


def _glibc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None
    trim.argtypes, trim.restype = (ctypes.c_size_t,), ctypes.c_int
    return trim


_trim = _glibc_trim()


def give_back() -> None:
    """Return what was freed: glibc keeps it for itself otherwise. Takes milliseconds, without the GIL."""
    if _trim is not None:
        _trim(0)
