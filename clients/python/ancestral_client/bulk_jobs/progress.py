"""How far a job is: a bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from ancestral.terminal import console


class _Rate(ProgressColumn):
    """Rows per second since the work began, and how long the others take at that."""

    def render(self, task: Task) -> Text:
        return Text(pace(task.completed - task.fields["before"], (task.total or 0) - task.completed, task.elapsed or 0))


def pace(done: float, left: float, seconds: float) -> str:
    """What so many rows in so many seconds mean for those that are left; nothing is promised before a row is done."""
    if not done or not seconds:
        return "-- rows/s"
    rate = done / seconds
    return f"{rate:,.0f} rows/s, {timedelta(seconds=round(left / rate))} left"


class Bar:
    """Counts rows. May be told of them by several threads."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, rows: int) -> None:
        self._progress.advance(self._task, rows)


@contextmanager
def bar(total: int, before: int) -> Iterator[Bar]:
    """A bar of `total` rows, `before` of which were done by an earlier run: it is gone when the block ends."""
    stderr = console(stderr=True)
    columns = (BarColumn(), TextColumn("{task.completed:,}/{task.total:,} rows", markup=False), _Rate())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        yield Bar(progress, progress.add_task("rows", total=total, completed=before, before=before))
