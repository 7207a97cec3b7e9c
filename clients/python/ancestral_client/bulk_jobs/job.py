"""What everybody who works on a job has to know. Plain values: an engine may send them to other machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ancestral_client.bulk_jobs.servers import Place
from ancestral_client.bulk_jobs.sources import Part, Source
from ancestral_client.fitting import Resize
from ancestral_client.replacing import FileProblem

RoleName = Literal["encode", "score", "features", "classify"]
OnError = Literal["fail", "skip"]

# A call holds as many images as the server runs in a few batches, and not so many bytes that those in flight count.
_MOST_IMAGES, _MOST_BYTES = 256, 8 * 2**20


class RowProblem(FileProblem):
    """A row that cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments that decide what is written. A field is called like its option."""

    role: RoleName
    model: str
    version: int
    """0: the highest that was served when the job began."""
    input: str
    column: str | None
    keep_images: bool
    scale: float | None
    resize: Resize | None
    labels: str | None
    draws: int
    seed: int
    draw_seed: int | None
    prefix: str
    part_rows: int


@dataclass(frozen=True, slots=True)
class Job:
    """One job: `schema` is that of every file that it writes, and `results` of its columns those of the model."""

    asked: Asked
    version: int
    """The version that answers all of it."""
    image_shape: tuple[int, int, int]
    label_count: int
    source: Source
    results: Any
    schema: Any
    out: Path
    places: Sequence[Place]
    wait_seconds: float
    on_error: OnError

    @property
    def message_size(self) -> int:
        """Images of a call."""
        height, width, channels = self.image_shape
        most = min(_MOST_IMAGES // self.asked.draws, _MOST_BYTES // (height * width * channels))
        return max(1, most)

    def identity(self, part: Part) -> str:
        """The same for the same arguments on the same input, and for no others."""
        about = [asdict(self.asked), self.version, str(self.schema), part.fingerprint]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a part."""

    part: int
    rows: int
    skipped: int
    """Rows that could not be used."""
    in_colour: int
    """Pictures in colour that were read as grey."""
    problem: str | None
    """What was wrong with the first row that was skipped."""


def name_of(part: Part) -> str:
    """The file of a part: in the order of their names they hold the rows in the order of the input."""
    return f"part-{part.index:05d}.parquet"
