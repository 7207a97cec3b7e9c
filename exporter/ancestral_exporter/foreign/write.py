"""Writes the bundle of a foreign model: verified against the original, with a card that says what was assumed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ancestral.text import one_line
from ancestral_exporter.bundle import VerifyError, check_home, write_bundle
from ancestral_exporter.bundle.compare import Tolerance
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds
from ancestral_exporter.bundle.runtime import open_session, run_role
from ancestral_exporter.bundle.write import check_name
from ancestral_exporter.card import CARD, commit
from ancestral_exporter.errors import ExporterError
from ancestral_exporter.foreign.onnx_model import trial_images
from ancestral_exporter.models.base import Bundled

# Images recorded; each is run alone through the original.
_GOLDEN_IMAGES = 8
# A batch in which an image's answer is held against the one that it has alone.
_COMPANY = 7
# The share of values that may differ because a byte was rounded the other way.
_PIXELS = 0.002


class Foreign(Bundled, Protocol):
    """What is imported. assumed: what was made of it, in sentences; origin: where it is from, for the provenance."""

    @property
    def assumed(self) -> Sequence[str]: ...

    @property
    def origin(self) -> Mapping[str, str]: ...


def write(model: Foreign, name: str, models: Path, *, class_names: Sequence[str] = (), tolerance: float) -> Path:
    """Verify and place the next version of `models/name`; returns its folder.

    tolerance: |a - b| <= tolerance (1 + |b|) for each float of an answer. Raises ExporterError, in one line, where the
    graph does not answer as the original.
    """
    check_name(name)
    models.mkdir(parents=True, exist_ok=True)
    check_home(models / name)
    allowed = Tolerance(tolerance, _PIXELS)

    def extras(folder: Path) -> tuple[()]:
        (folder / CARD).write_text(_card(model, name, tolerance, _company(model, folder)), encoding="utf-8")
        return ()

    try:
        return write_bundle(
            model,
            name=name,
            models_dir=models,
            description=f"imported from {model.origin['imported_from']}",
            provenance={
                **model.origin,
                "assumed": "; ".join(model.assumed),
                "commit": commit(),
                "version.ancestral": importlib.metadata.version("ancestral"),
            },
            golden_images=trial_images(model.image, _GOLDEN_IMAGES),
            class_names=class_names,
            fresh=allowed,
            golden=allowed,
            extras=extras,
        )
    except VerifyError as error:
        failures = str(error).splitlines()[1:]
        more = f" (and {len(failures) - 1} more checks)" if len(failures) > 1 else ""
        first = one_line(failures[0].removeprefix("FAILED"))
        raise ExporterError(
            f"{model.origin['imported_from']}: does not answer as the original does, so that nothing was written: "
            f"{first}{more}"
        ) from error


def read_classes(path: Path, count: int) -> tuple[str, ...]:
    """Names of classes, one a line. Raises ExporterError where they are not `count`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ExporterError(f"{path}: is no UTF-8 text of one class a line") from None
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if len(names) != count:
        raise ExporterError(f"{path}: has {len(names)} lines, the model knows {count} classes")
    if "" in names:
        raise ExporterError(f"{path}: line {names.index('') + 1} is empty, every class must have a name")
    return names


def _company(model: Bundled, folder: Path) -> str:
    """Whether an image's answers were bitwise the same alone as in a batch, in a sentence."""
    subjects = Subjects(trial_images(model.image, _COMPANY), None, 0)
    worst = 0.0
    for role in (role for graph in model.graphs() for role in graph_roles(graph)):
        session = open_session(folder / role.graph)
        feeds = make_feeds(role, subjects)
        together = run_role(session, role, feeds, model.image.height)
        for i in range(_COMPANY):
            alone = run_role(session, role, {key: value[i : i + 1] for key, value in feeds.items()}, 0)
            for key, value in alone.items():
                apart = np.abs(value.astype(np.float64) - together[key][i : i + 1])
                worst = max(worst, float(apart.max(initial=0)))
    if worst:
        return f"An image's answers may depend on the batch that it is in: by up to {worst:.2g} in one of {_COMPANY}."
    return f"In a batch of {_COMPANY}, every image's answers were bitwise those that it has alone."


def _card(model: Foreign, name: str, tolerance: float, company: str) -> str:
    image = model.image
    lines = [
        f"# {name}",
        "",
        "**Imported**: trained by somebody else; nothing is known here of its data, its training or its worth.",
        "",
        "## Where it came from",
        "",
        *(f"- {key.removeprefix('imported_')}: {value}" for key, value in model.origin.items()),
        "",
        "## What was assumed",
        "",
        *(f"- {line}" for line in model.assumed),
        "",
        "## What it gives",
        "",
        f"Images of {image.height}×{image.width}×{image.channels}, uint8, by the roles "
        + ", ".join(role.name for graph in model.graphs() for role in graph_roles(graph))
        + (f"; {model.latent_size} latent dimensions." if model.latent_size else "."),
        "",
        f"Its graphs were held against the original at several batches, within {tolerance:g} (1 + |x|). {company}",
    ]
    return "\n".join([*lines, ""])
