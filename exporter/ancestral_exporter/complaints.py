"""How a command of the exporter ends when something goes wrong: by one line on stderr, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ancestral.text import one_line, shown_lines
from ancestral_exporter.errors import ExporterError, UsageError


@contextmanager
def complaining(program: str) -> Iterator[None]:
    """Exit with 1 for an error, 2 for wrong usage, 130 for Ctrl-C, after a line that begins with the program's name.

    What is nobody's mistake but ours passes through, with its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        said = words(error)
        if said is None:
            raise
        print(shown_lines(f"{program}: {said}"), file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else getattr(error, "exit_code", 1))


def words(error: Exception) -> str | None:
    """What to tell a person of an error; None where it tells nothing but that a program is wrong."""
    if isinstance(error, ExporterError):
        return str(error)
    if _lacks_memory(error):
        return f"there is not enough memory for this: {one_line(error)}; try a smaller net, batch or image size"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _lacks_memory(error: Exception) -> bool:
    """Whether Python, or torch on a CPU or a GPU, was refused memory."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory"))
    )
