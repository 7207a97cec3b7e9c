"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO

# Some file systems know no flush, and that is no reason not to write there.
_NO_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
# A folder that takes no new file may hold one that can be written to; and a file that is a mount cannot be replaced.
_NOT_BESIDE = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_REPLACED = (*_NOT_BESIDE, errno.EBUSY, errno.EXDEV)


class FileProblem(Exception):
    """A file cannot be read or written as asked; the message names it."""


def check_writable(path: Path) -> None:
    """Raises FileProblem unless the file can be written, as far as this can be known before it is."""
    with _writing(path):
        place = _Place(path)
        if place.replaceable and (beside := place.open_beside()) is not None:
            beside[1].close()
            beside[0].unlink()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write `path` with: there as a whole when the block ends, while what was there stays if it fails.

    It is written beside its place, flushed to the disk and renamed, and keeps the permissions of what it replaces. A
    link stays one: what it points to is replaced. Pipes and devices, and files whose folder takes no new ones, are
    written in place, once all is there. FileProblem where that cannot be.
    """
    with _writing(path):
        place = _Place(path)
        beside = place.open_beside() if place.replaceable else None
        if beside is None:
            with BytesIO() as memory:
                yield memory
                place.overwrite(memory.getvalue())
            return
        partial, file = beside
        try:
            with file:
                yield file
                _flush(file)
            place.take(partial)
        finally:
            partial.unlink(missing_ok=True)


def reason(error: Exception) -> str:
    """What an exception says, in a line."""
    said = error.strerror if isinstance(error, OSError) else None
    if len(error.args) > 1 and isinstance(error.args[0], str):  # such as tokenize's, of a message and a place
        said = said or error.args[0]
    return said or next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Makes a FileProblem of what goes wrong while a file is written."""
    try:
        yield
    except OSError as error:
        raise FileProblem(f"{path}: cannot be written: {reason(error)}") from error


class _Place:
    """Where a path leads, and what is there. FileProblem or OSError if nothing can be written there."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise FileProblem(f"{path}: is a folder; give the name of a file in it")
        try:
            self._before: os.stat_result | None = path.stat()
        except FileNotFoundError:
            self._before = None
        self.replaceable = self._before is None or stat.S_ISREG(self._before.st_mode)
        # The links of /proc to pipes lead nowhere that a path could say.
        self._target = Path(os.path.realpath(path)) if self.replaceable else path
        if not self._target.parent.is_dir():
            raise FileProblem(f"{path}: there is no folder {self._target.parent if path.is_symlink() else path.parent}")
        if not self.replaceable and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if self.replaceable and self._before is not None:
            with self._target.open("r+b"):  # a rename would not ask whether it may be written to
                pass

    def open_beside(self) -> tuple[Path, IO[bytes]] | None:
        """A new file in the same folder; None if there can be none, while the file that is there can be written to."""
        partial = self._target.with_name(f".partial-{secrets.token_hex(8)}")
        try:
            return partial, partial.open("xb")
        except OSError as error:
            if error.errno in _NOT_BESIDE and self._before is not None:
                return None
            raise

    def take(self, partial: Path) -> None:
        """Have a finished file take this place, with the owner and the permissions of what was there."""
        if self._before is not None:
            with suppress(OSError):
                os.chown(partial, self._before.st_uid, self._before.st_gid)
            with suppress(OSError):
                partial.chmod(stat.S_IMODE(self._before.st_mode))
        try:
            partial.replace(self._target)
        except OSError as error:
            if error.errno not in _NOT_REPLACED or self._before is None:
                raise
            self.overwrite(partial.read_bytes())
            return
        _flush_folder(self._target.parent)

    def overwrite(self, content: bytes) -> None:
        with self._target.open("wb") as file:
            file.write(content)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def _flush_folder(folder: Path) -> None:
    """Have the new name on the disk too, where that can be asked for."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
