"""Writes a bundle: everything into a hidden folder beside it, verified there, then renamed once."""

from __future__ import annotations

import errno
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from google.protobuf import json_format

from ancestral.bundle import rules
from ancestral.bundle.manifest import MANIFEST
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.compare import Tolerance, compare
from ancestral_exporter.bundle.export import export_graphs, graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds, original_answers
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import Array, Arrays, open_session
from ancestral_exporter.bundle.verify import (
    FRESH_TOLERANCE,
    sha256,
    verify_bundle,
    verify_model,
)
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.models.base import Bundled, Graph, RasterGraph

GOLDEN = "golden.npz"
# For the server's device too: a GPU without TF32 stays well inside.
GOLDEN_TOLERANCE = Tolerance(1e-4, 0.002)
_PARTIAL = ".partial-"
# The manifest and the server hold versions in 64 bits with a sign.
LAST_VERSION = 2**63 - 1
# Images recorded of a raster role: its replay costs H runs at any batch, its recording tens of passes. Of other roles
# as many as _RECORDED_BYTES hold, but no fewer: a PixelCNN's features of 28×28 pixels would be most of its bundle.
_FEW_IMAGES = 4
_RECORDED_BYTES = 2**18


def write_bundle(
    model: Bundled,
    *,
    name: str,
    models_dir: Path,
    description: str = "",
    metrics: Sequence[bundle_pb2.Metric] = (),
    provenance: Mapping[str, str] | None = None,
    golden_images: Array,
    golden_labels: Array | None = None,
    class_names: Sequence[str] = (),
    fresh: Tolerance = FRESH_TOLERANCE,
    golden: Tolerance = GOLDEN_TOLERANCE,
    extras: Callable[[Path], Iterable[bundle_pb2.Metric]] | None = None,
    complete: Callable[[Path, bundle_pb2.Bundle], None] | None = None,
) -> Path:
    """Export, verify and place `model` as the next version of `models_dir/name`; returns its folder.

    golden_images [N,H,W,C] uint8 and golden_labels [N] (needed when the model has labels) are what the recorded answers
    are about; a handful is enough. class_names are those of the labels from 0 on, where they have any. `fresh` is
    how far a graph may be from its original here, `golden` how far it may be from the recorded answers wherever it is
    served. `extras` is called with the temporary folder when the graphs are there; it may add files, and returns what
    it measured of the graphs. `complete` is called with that folder and the manifest, and may add to both: further
    forms of roles, what the training images are like.
    Raises VerifyError, leaving nothing behind, when a graph does not answer as its original does.
    """
    check_name(name)
    subjects = _subjects(model, golden_images, golden_labels)
    home = Path(models_dir) / name
    home.mkdir(parents=True, exist_ok=True)
    with temporary(home) as folder:
        graphs = model.graphs()
        export_graphs(graphs, folder)
        verify_model(model, folder, tolerance=fresh).raise_if_failed()
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **_record(graphs, folder, subjects))
        measured = [*metrics, *(extras(folder) if extras else ())]
        manifest = _manifest(model, name, description, class_names, graphs, measured, provenance or {}, golden)
        if complete:
            complete(folder, manifest)
        manifest.files.extend(bundle_files(folder))
        manifest.version = next_version(home)
        write_manifest(folder, manifest)
        verify_bundle(folder, placed=False).raise_if_failed()
        return place(folder, home, manifest)


def check_name(name: str) -> None:
    """Raises UsageError unless a model may be called so."""
    if not rules.NAME.fullmatch(name):
        raise UsageError(f"model name {name!r} does not match {rules.NAME.pattern}")


def check_home(home: Path) -> None:
    """Raises ExporterError unless versions can be placed in `home`: asked before a training, not after it."""
    try:
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=home if os.path.lexists(home) else home.parent):
            pass
    except OSError as error:
        raise ExporterError(f"{home}: cannot be written: {error.strerror}") from error


def _subjects(model: Bundled, images: Array, labels: Array | None) -> Subjects:
    shape = (model.image.height, model.image.width, model.image.channels)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or len(images) == 0:
        raise UsageError(
            f"golden images must be uint8 [N,{','.join(map(str, shape))}], not {images.dtype} {list(images.shape)}"
        )
    if model.label_count and (labels is None or len(labels) != len(images)):
        raise UsageError(f"{len(images)} golden images of a model with labels need as many golden labels")
    return Subjects(images, labels if model.label_count else None, seed=0)


def _record(graphs: Sequence[Graph], folder: Path, subjects: Subjects) -> Arrays:
    """Inputs and the original's answers of every role, by their names in golden.npz.

    The original's, since the point of a replay is to find the runtime that differs. But a raster sample that hinges on
    a rounding would fail on one device and pass on the next, so noise is drawn again until onnxruntime paints the same.
    """
    golden: Arrays = {}
    for graph in graphs:
        for role in graph_roles(graph):
            chosen = subjects
            if isinstance(graph, RasterGraph):
                session = open_session(folder / graph.file)
                for seed in range(3):
                    chosen = Subjects(subjects.images, subjects.labels, seed).first(_FEW_IMAGES)
                    feeds = make_feeds(role, chosen)
                    answers = original_answers(graph, role, feeds)
                    trial = VerifyReport(graph.file)
                    compare(trial, "recording", session, role, feeds, answers, Tolerance(GOLDEN_TOLERANCE.value, 0))
                    if len(trial.checks) == len(role.outputs):  # no sample had to be excused
                        break
            else:
                # Every answer has 4 bytes a value, or 1.
                size = sum(4 * math.prod(spec.shape) for spec in role.outputs)
                chosen = subjects.first(min(len(subjects.images), max(_FEW_IMAGES, _RECORDED_BYTES // size)))
                feeds = make_feeds(role, chosen)
                answers = original_answers(graph, role, feeds)
            golden |= {f"{role.name}/in/{key}": value for key, value in feeds.items()}
            golden |= {f"{role.name}/out/{key}": value for key, value in answers.items()}
    return golden


def _manifest(
    model: Bundled,
    name: str,
    description: str,
    class_names: Sequence[str],
    graphs: Sequence[Graph],
    metrics: Sequence[bundle_pb2.Metric],
    provenance: Mapping[str, str],
    tolerance: Tolerance,
) -> bundle_pb2.Bundle:
    image = model.image
    manifest = bundle_pb2.Bundle(
        name=name,
        family=model.family,
        description=description,
        image=bundle_pb2.ImageSpec(
            height=image.height, width=image.width, channels=image.channels, levels=image.levels
        ),
        latent_size=model.latent_size,
        label_count=model.label_count,
        class_names=class_names,
        roles=[role for graph in graphs for role in graph_roles(graph)],
        golden=bundle_pb2.Golden(path=GOLDEN, tolerance=tolerance.value, pixel_tolerance=tolerance.pixels),
        metrics=metrics,
        provenance=provenance,
    )
    manifest.schema = rules.least_schema(manifest)
    return manifest


def bundle_files(folder: Path) -> list[bundle_pb2.BundleFile]:
    """Every file of a bundle but its manifest."""
    return [
        bundle_pb2.BundleFile(
            path=path.relative_to(folder).as_posix(), sha256=sha256(path), size_bytes=path.stat().st_size
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]


def write_manifest(folder: Path, manifest: bundle_pb2.Bundle) -> None:
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def next_version(home: Path) -> int:
    """One above the highest in a model's folder. Raises UsageError where that is the highest that there can be."""
    numbers = (int(path.name) for path in home.iterdir() if path.name.isdecimal())
    last = max((number for number in numbers if number <= LAST_VERSION), default=0)
    if last == LAST_VERSION:
        raise UsageError(f"{home}: holds version {last}, and there is none above it")
    return last + 1


def place(folder: Path, home: Path, manifest: bundle_pb2.Bundle, version: int | None = None) -> Path:
    """Rename the folder to that version, or to the next free one; its manifest is written anew.

    Another exporter may take the version that we thought of: then the next one is tried. Raises FileExistsError where
    the version was given.
    """
    for path in folder.rglob("*"):
        _sync(path)
    while True:
        manifest.version = version or next_version(home)
        write_manifest(folder, manifest)
        _sync(folder / MANIFEST)
        _sync(folder)
        target = home / str(manifest.version)
        try:
            folder.rename(target)
        except OSError as error:
            if not os.path.lexists(target):
                raise
            if version:
                raise FileExistsError(errno.EEXIST, "is there already", str(target)) from error
            continue  # taken in between: a rename never replaces a folder that has files
        _sync(home)
        return target


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk before what depends on it is."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Not every network or user-space file system flushes folders; a training is worth more than that.
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(handle)


@contextmanager
def temporary(home: Path) -> Iterator[Path]:
    """A hidden folder in `home`, on the same file system so that it can be renamed; gone at the end unless renamed.

    Its mode is what the umask leaves, as of every folder and file here: a bundle is as private as its maker wants.
    """
    folder = home / f"{_PARTIAL}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    except OSError as error:
        if error.filename is not None:
            raise
        # A full disk is found by a file that is open, which does not say its name.
        raise ExporterError(f"{home}: cannot be written: {error.strerror or error}") from error
    finally:
        if folder.exists():
            shutil.rmtree(folder)
