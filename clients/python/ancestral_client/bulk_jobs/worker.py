"""A part from the input to the output: read, asked, written.

A few chunks are on their way at a time, so that the server always has one to run, and the pictures of the next are
decoded meanwhile. What is held is those, and the columns of the part that were answered and not yet written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ancestral_client import errors
from ancestral_client.bulk_jobs import roles
from ancestral_client.bulk_jobs.job import Done, Job, RowProblem, name_of
from ancestral_client.bulk_jobs.output import footer
from ancestral_client.bulk_jobs.servers import Servers, about_images
from ancestral_client.bulk_jobs.sources import Chunk, Part
from ancestral_client.cells import BadCell, image_of
from ancestral_client.fitting import Fit
from ancestral_client.replacing import replacing

# Calls of one worker: one is run, one waits for its turn, one is being made, one written.
_IN_FLIGHT = 4
# A row group is written when the columns that wait take so much.
_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Answered:
    """Rows as they are written, and what was wrong with which of them."""

    table: Any
    in_colour: int
    problems: list[str | None]
    name: Callable[[int], str]


class Worker:
    """Does parts, one at a time. `rows` is told how many more are answered. Close it when there are no more."""

    def __init__(self, job: Job, servers: Servers, rows: Callable[[int], None] = lambda _: None) -> None:
        self._job = job
        self._servers = servers
        self._rows = rows
        self._reader = job.source.open()
        self._fit = Fit(job.asked.model, job.image_shape, job.asked.resize, job.asked.scale)
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, thread_name_prefix="bulk")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def do(self, part: Part) -> Done:
        """Writes the file of a part. RowProblem at a bad row, unless it is to be skipped; what a client raises."""
        job = self._job
        rows = skipped = in_colour = 0
        problem: str | None = None
        waiting: list[Any] = []
        with replacing(job.out / name_of(part)) as file, pq.ParquetWriter(file, job.schema) as writer:
            for answered in self._answers(part):
                bad = [i for i, found in enumerate(answered.problems) if found is not None]
                if bad and problem is None:
                    problem = _told(answered, bad[0])
                rows, skipped = rows + len(answered.problems), skipped + len(bad)
                in_colour += answered.in_colour
                waiting.append(answered.table)
                if sum(table.nbytes for table in waiting) > _GROUP_BYTES:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting.clear()
                self._rows(len(answered.problems))
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
            done = Done(part.index, rows, skipped, in_colour, problem)
            writer.add_key_value_metadata(footer(job, part, done))
        return done

    def _answers(self, part: Part) -> Iterator[_Answered]:
        """What became of the part's rows, in order."""
        waiting: deque[Future[_Answered]] = deque()
        try:
            for turn, chunk in enumerate(self._reader.chunks(part, self._job.message_size), start=part.index):
                waiting.append(self._pool.submit(self._answer, chunk, turn))
                if len(waiting) >= _IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _answer(self, chunk: Chunk, turn: int) -> _Answered:
        count = len(chunk.cells)
        images = np.zeros((count, *self._job.image_shape), np.uint8)
        problems: list[str | None] = [None] * count
        in_colour = 0
        for i, cell in enumerate(chunk.cells):
            try:
                images[i], lost = image_of(cell, self._fit)
                in_colour += lost
            except BadCell as error:
                self._note(chunk, problems, i, str(error))
        labels = self._labels(chunk, problems)
        # Rows without an image go as black ones, and their answers nowhere: so each row keeps its place in the seed's
        # sequence, whatever became of those before it.
        found = pa.concat_tables(self._asked(chunk, turn, images, labels, problems, 0))
        bad = [found is not None for found in problems]
        if any(bad):
            found = found.take(pa.array([None if wrong else i for i, wrong in enumerate(bad)], pa.int64()))
        return _Answered(self._table(chunk, found, problems), in_colour, problems, chunk.name)

    def _note(self, chunk: Chunk, problems: list[str | None], i: int, problem: str) -> None:
        """Keep what is wrong with a row, or end the job with it."""
        if self._job.on_error == "fail":
            raise RowProblem(f"{chunk.name(i)}: {problem}; --on-error skip goes on without such rows")
        problems[i] = problems[i] or problem

    def _asked(
        self,
        chunk: Chunk,
        turn: int,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None,
        problems: list[str | None],
        first: int,
    ) -> list[Any]:
        """The results of rows of a chunk from its row `first` on; those to blame for a failure are found by halves."""
        question = roles.Question(images, labels, chunk.first_row + first)
        try:
            return [
                self._servers.ask(
                    lambda client: roles.answer(client, self._job.asked, self._job.version, question), turn
                ).cast(self._job.results)
            ]
        except errors.AncestralError as error:
            if not about_images(error):
                raise
            if len(images) == 1:
                self._note(chunk, problems, first, str(error))
                return [pa.table([pa.nulls(1, field.type) for field in self._job.results], schema=self._job.results)]
        half = len(images) // 2
        return [
            table
            for start, end in ((0, half), (half, len(images)))
            for table in self._asked(
                chunk, turn, images[start:end], None if labels is None else labels[start:end], problems, first + start
            )
        ]

    def _labels(self, chunk: Chunk, problems: list[str | None]) -> NDArray[np.int64] | None:
        """The class of each row [N]: that of all, or what the column says."""
        asked = self._job.asked.labels
        if asked is None:
            return None
        count = len(chunk.cells)
        if asked.isdecimal():
            return np.full(count, int(asked))
        labels = np.zeros(count, np.int64)
        for i, label in enumerate(chunk.kept.column(asked).to_pylist()):
            if label is not None and 0 <= label < self._job.label_count:
                labels[i] = label
            else:
                told = "null" if label is None else label
                self._note(chunk, problems, i, f"{asked} is {told}; must be 0 to {self._job.label_count - 1}")
        return labels

    def _table(self, chunk: Chunk, found: Any, problems: list[str | None]) -> Any:
        columns = [*chunk.kept.columns, *found.columns, pa.array(problems, pa.string())]
        return pa.table(columns, schema=self._job.schema)


def _told(answered: _Answered, i: int) -> str:
    return f"{answered.name(i)}: {answered.problems[i]}"
