"""How far a call of many images is, for whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = bool | Callable[[int, int | None], object]
"""True for a bar on stderr, where somebody watches; or what is called with how many are done, and of how many (None
where that is not known)."""

Tell = Callable[[int, int | None], object]


@contextmanager
def told(progress: Progress, what: str = "images") -> Iterator[Tell]:
    """What to call with how far it is. A bar is gone when the block ends, before an error is told."""
    if callable(progress):
        yield progress
    elif progress:
        yield from _bar(what)
    else:
        yield _nobody


def _nobody(done: int, total: int | None) -> None:
    pass


def _bar(what: str) -> Iterator[Tell]:
    # Who asks for no bar does not wait for the import.
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    from ancestral.terminal import console

    stderr = console(stderr=True)
    watched = stderr.is_terminal or stderr.is_jupyter
    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(what, *columns, console=stderr, transient=True, disable=not watched) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
