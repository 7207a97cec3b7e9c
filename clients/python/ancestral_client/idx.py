"""The idx files that MNIST and its like come in, also packed with gzip: arrays of bytes, images or labels."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from ancestral_client.replacing import FileProblem

# Two zeros, and the type of the elements: 8 is an unsigned byte. The next byte is the number of axes.
_MAGIC = b"\x00\x00\x08"
_GZIP = b"\x1f\x8b"
# Labels have one axis, grey images three, colours four.
_AXES = range(1, 5)
# Deflate packs at best 1,032 to 1, and images nowhere near; above a GiB that is no data but a trap.
_BOMB_BYTES, _BOMB_RATIO = 2**30, 100


def is_idx(path: Path) -> bool:
    """Whether a file is one, by its first bytes."""
    with ExitStack() as stack:
        try:
            return _header(_opened(path, stack)) is not None
        except (EOFError, OSError, zlib.error):  # whoever reads it says so
            return False


def read(path: Path) -> NDArray[np.uint8]:
    """The array of an idx file. FileProblem if it is cut off or longer than it says."""
    with ExitStack() as stack:
        file = _opened(path, stack)
        shape = _header(file)
        if shape is None:
            raise FileProblem(f"{path}: is not an idx file of bytes")
        claimed = math.prod(shape)
        if claimed > max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size):
            raise FileProblem(f"{path}: is damaged: its header speaks of {claimed} bytes")
        try:
            content = file.read(claimed + 1)
        except EOFError:
            content = b""  # of a packed file that ends too early
        if len(content) != claimed:
            found = f"more than {claimed}" if len(content) > claimed else str(len(content))
            raise FileProblem(f"{path}: is cut off or damaged: its header speaks of {claimed} bytes, it holds {found}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _opened(path: Path, stack: ExitStack) -> IO[bytes]:
    file = stack.enter_context(path.open("rb"))
    packed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file))) if packed else file


def _header(file: IO[bytes]) -> tuple[int, ...] | None:
    """The shape that a file begins with; None if it is none of ours."""
    magic = file.read(4)
    if magic[:3] != _MAGIC or len(magic) < 4 or magic[3] not in _AXES:
        return None
    sizes = file.read(4 * magic[3])
    return struct.unpack(f">{magic[3]}I", sizes) if len(sizes) == 4 * magic[3] else None
