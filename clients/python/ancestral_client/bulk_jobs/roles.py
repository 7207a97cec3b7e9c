"""What a role makes of images: columns.

Shapes: N images, Z latent dimensions, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ancestral_client.bulk_jobs.job import Asked, RoleName
from ancestral_client.client import Client

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """Images [N,H,W,C], their classes [N] where the model wants them, and where the first stands in the input."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    first_row: int


def answer(client: Client, asked: Asked, version: int, question: Question) -> Any:
    """The columns of the model for N images, as a table. What draws needs is that of the row, however rows are cut."""
    columns = _ROLES[asked.role](client, asked, version, question)
    present = {f"{asked.prefix}{name}": _column(values) for name, values in columns.items() if values is not None}
    return pa.table(present)


def _column(values: Any) -> Any:
    """[N] as numbers or words, [N,M] as lists of M."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return pa.array(values)


def _encode(client: Client, asked: Asked, version: int, question: Question) -> Columns:
    found = client.encode(
        asked.model, question.images, draw_seed=asked.draw_seed, first_index=question.first_row, version=version
    )
    return {"mean": found.mean, "log_variance": found.log_variance, "latent": found.latent}


def _score(client: Client, asked: Asked, version: int, question: Question) -> Columns:
    found = client.score(
        asked.model,
        question.images,
        draws=asked.draws,
        seed=asked.seed,
        first_index=question.first_row,
        labels=question.labels,
        version=version,
    )
    return {"log_likelihood": found.log_likelihood, "bits_per_dim": found.bits_per_dim}


def _features(client: Client, asked: Asked, version: int, question: Question) -> Columns:
    found = client.features(asked.model, question.images, labels=question.labels, version=version)
    return {"features": found.features}


def _classify(client: Client, asked: Asked, version: int, question: Question) -> Columns:
    found = client.classify(asked.model, question.images, version=version)
    return {
        "predicted_label": found.labels,
        "predicted_name": found.names,
        "probabilities": found.probabilities,
        "logits": found.logits,
    }


_ROLES: dict[RoleName, Callable[[Client, Asked, int, Question], Columns]] = {
    "encode": _encode,
    "score": _score,
    "features": _features,
    "classify": _classify,
}
