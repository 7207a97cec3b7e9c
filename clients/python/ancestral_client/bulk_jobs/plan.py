"""From what was asked to a Job: whatever can be known to be wrong is told here, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ancestral.text import shown
from ancestral_client import errors
from ancestral_client.bulk_jobs import roles
from ancestral_client.bulk_jobs.job import Asked, Job, OnError
from ancestral_client.bulk_jobs.output import Output
from ancestral_client.bulk_jobs.servers import Place, Servers
from ancestral_client.bulk_jobs.sources import ArrayFile, Source, source_of
from ancestral_client.cells import BadCell, image_of
from ancestral_client.client import Client
from ancestral_client.fitting import Fit
from ancestral_client.replacing import FileProblem
from ancestral_client.results import Model

_ERROR = "error"
"""The column that says why a row has no results."""


def planned(
    asked: Asked, path: Path, output: Output, places: Sequence[Place], wait_seconds: float, on_error: OnError
) -> Job:
    """The job, as the first server that answers knows the model; the others are asked whether they have it, too."""
    source = source_of(path, asked.column, keep_images=asked.keep_images)
    version = output.begun["version"] if output.begun is not None else asked.version
    servers = Servers(places, 0)
    model = servers.ask(lambda client: _model(client, asked.model, version), 0)
    if len(places) > 1:
        for place in places:
            _check_place(place.client(), model)
    _check_labels(asked, model, source)
    results = servers.ask(lambda client: _results(client, asked, model), 0)
    added = [*results, pa.field(f"{asked.prefix}{_ERROR}", pa.string())]
    taken = sorted({field.name for field in added} & set(source.kept.names))
    if taken:
        raise FileProblem(
            f"{path}: has a column {taken[0]} already, which is one of the results; --prefix TEXT puts a text before "
            "their names"
        )
    if isinstance(source, ArrayFile):
        _check_array(source, Fit(model.name, model.image_shape, asked.resize, asked.scale))
    return Job(
        asked=asked,
        version=model.version,
        image_shape=model.image_shape,
        label_count=model.label_count,
        source=source,
        results=results,
        schema=pa.schema([*source.kept, *added]),
        out=output.path.resolve(),
        places=places,
        wait_seconds=wait_seconds,
        on_error=on_error,
    )


def only_model(places: Sequence[Place], role: str) -> str:
    """The model that can do it, where there is only one. InvalidArgument where there are others, or none."""
    models = Servers(places, 0).ask(lambda client: client.models(), 0)
    able = sorted({model.name for model in models if model.serving and role in model.roles})
    if len(able) != 1:
        which = f"these can {role}: {', '.join(able)}" if able else f"the server has none that can {role}"
        raise errors.invalid("MODEL", f"not set; {which}")
    return able[0]


def _model(client: Client, name: str, version: int) -> Model:
    found = client.model(name, version)
    if not found.serving:
        raise errors.Unavailable(f"{name} does not serve at {client.address}: {found.reason or found.state}")
    return found


def _check_place(client: Client, model: Model) -> None:
    try:
        client.model(model.name, model.version)
    except errors.NotFound as error:
        raise errors.invalid("--address", f"{client.address}: {error}") from error
    except errors.Unavailable as error:  # it may come back, and the others answer meanwhile
        print(f"ancestral: {shown(error)}; the others go on without it", file=sys.stderr)


def _check_labels(asked: Asked, model: Model, source: Source) -> None:
    if asked.role not in ("score", "features"):
        return
    if asked.labels is None:
        if model.label_count:
            raise errors.invalid(
                "--labels", f"not set; {model.name} is class-conditional: --labels CLASS, or a column with one for each"
            )
        return
    if asked.labels.isdecimal():
        return
    if asked.labels not in source.kept.names:
        there = ", ".join(source.kept.names) or "none"
        raise errors.invalid("--labels", f"is {asked.labels!r}, which is no class and no column; the columns: {there}")
    kind = source.kept.field(asked.labels).type
    if not pa.types.is_integer(kind):
        raise errors.invalid("--labels", f"column {asked.labels!r} is {kind}; classes are whole numbers")


def _results(client: Client, asked: Asked, model: Model) -> pa.Schema:
    """What the role's columns are, as the answer to a black image has them. Raises what the call raises."""
    labels = None
    if asked.labels is not None:
        labels = np.array([int(asked.labels) if asked.labels.isdecimal() else 0])
    black = np.zeros((1, *model.image_shape), np.uint8)
    return roles.answer(client, asked, model.version, roles.Question(black, labels, 0)).schema


def _check_array(source: ArrayFile, fit: Fit) -> None:
    """Rows of an array are all alike: what is wrong with the first is wrong with the file."""
    chunk = next(source.open().chunks(source.parts(source.rows)[0], 1))
    try:
        image_of(chunk.cells[0], fit)
    except BadCell as error:
        raise FileProblem(f"{source.path}: each of its images {error}") from None
