"""When a version that was refused is tried again although none of its files has changed."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ancestral_server.catalog.folder import Key
from ancestral_server.errors import OutOfMemory
from ancestral_server.runtime.onnxruntime_workarounds.messages import out_of_memory

# The first pause, doubled each time, and the longest: a bundle that never fits takes what memory there is while it is
# tried, which those that serve should seldom feel.
FIRST_SECONDS, LONGEST_SECONDS = 2.0, 300.0

# What the system says where files are as they are for good; all else that it says may be otherwise in a while: no
# permission, too many open files, no memory, no thread, a disk or a server of files that does not answer.
_LASTING = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOEXEC)
)
# onnxruntime has no types for it: it tells the number of the error, or its name as the C library does.
_SYSTEM_ERROR = re.compile(r"system error number (\d+)|pthread_create failed, error code: (\d+)")
_SHORTAGES = tuple(os.strerror(code) for code in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EACCES))
_NO_THREAD = "can't start new thread"


def passing(error: BaseException) -> bool:
    """Whether a load failed for what may be otherwise in a while with the same files: by the error or its causes."""
    return any(map(_passing, _causes(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _passing(error: BaseException) -> bool:
    if isinstance(error, OutOfMemory) or out_of_memory(error):
        return True
    if isinstance(error, OSError):
        # numpy and zipfile raise some without a number for what they find in a file.
        return error.errno is not None and error.errno not in _LASTING
    text = str(error)
    if found := _SYSTEM_ERROR.search(text):
        return int(found[1] or found[2]) not in _LASTING
    return _NO_THREAD in text or any(shortage in text for shortage in _SHORTAGES)


@dataclass(slots=True)
class Retries:
    """When to try again what failed for a passing reason: after 2 s, then twice as long each time, 5 minutes at most.

    `now`: seconds on any clock that does not go back.
    """

    # How often in succession each has failed, and when it is due.
    _failures: dict[Key, tuple[int, float]] = field(default_factory=dict)

    def failed(self, key: Key, now: float) -> None:
        count = self._failures.get(key, (0, 0.0))[0] + 1
        self._failures[key] = count, now + min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(count - 1, 30))

    def due(self, key: Key, now: float) -> bool:
        """Also where it is not known to have failed."""
        return now >= self._failures.get(key, (0, now))[1]

    def forget(self, key: Key) -> None:
        """It is served, gone, or another: what fails from now on fails anew."""
        self._failures.pop(key, None)
