"""What can go wrong, in the words that a person reads.

ExporterError        anything below; the command line prints it in one line and exits with 1
├── DataError        a data folder lacks a file, or a file is not what it should be
└── UsageError       the caller asked for something that does not exist; exit code 2
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExporterError(Exception):
    """An error whose message is meant for people: one line, naming the thing and what to do."""


class DataError(ExporterError):
    """The data are missing or corrupt."""


class UsageError(ExporterError):
    """The request itself is wrong: an unknown recipe, a bad option."""


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean …?)` where one of the names is near, else nothing."""
    close = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
