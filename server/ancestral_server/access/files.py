"""Files that say who may come in: read as a whole, and only where nobody else could have written or read them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from ancestral_server.errors import StartupError

# Of the permissions of a secret. Its group may read: so Kubernetes mounts a Secret for a user who is not root.
_FOR_OTHERS = stat.S_IRWXO | stat.S_IWGRP


def read(path: Path, flag: str, *, secret: bool = False) -> bytes:
    """The content. StartupError, naming the flag, if it cannot be read, or is a secret that others can get at."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise StartupError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if secret and mode & _FOR_OTHERS and sys.platform != "win32":
        raise StartupError(f"{flag} {path}: others can read or change it (mode {mode:04o}); chmod 600 {path}")
    return content


def fingerprint(path: Path) -> tuple[int, ...]:
    """What is another one as soon as the file is; of one that is away, nothing."""
    try:
        # The status is that of what a link leads to: Kubernetes changes a Secret by a link.
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
