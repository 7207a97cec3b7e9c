"""What a pipe brings, as a file: `-` in a command stands for stdin, whatever kind of file that holds."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ancestral_client.replacing import FileProblem

STDIN = Path("-")
# By what a file begins with; what is none of these is a picture, or idx, which name themselves.
_SUFFIXES = {b"\x93NUMPY": ".npy", b"PK": ".npz", b"PAR1": ".parquet"}


def name_of(path: Path) -> str:
    """What a file is called where people read it."""
    return "stdin" if path == STDIN else str(path)


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """The path; of `-` that of a file with all that stdin holds. A FileProblem speaks of it as stdin."""
    if path != STDIN:
        yield path
        return
    if sys.stdin is None or sys.stdin.isatty():
        raise FileProblem("stdin: is a terminal; pipe a file into it")
    with tempfile.TemporaryDirectory() as folder:
        spooled = Path(folder) / "stdin"
        with spooled.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with spooled.open("rb") as file:
            begin = file.read(8)
        if not begin:
            raise FileProblem("stdin: holds nothing")
        suffix = next((suffix for magic, suffix in _SUFFIXES.items() if begin.startswith(magic)), "")
        named = spooled.rename(spooled.with_suffix(suffix)) if suffix else spooled
        try:
            yield named
        except FileProblem as error:
            raise FileProblem(str(error).replace(str(named), "stdin")) from error
