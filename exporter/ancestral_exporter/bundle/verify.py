"""Checks that a bundle is whole, that its graphs answer as their originals do, and that raster graphs are causal."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ancestral.bundle import rules
from ancestral.bundle.manifest import MANIFEST, NoManifest, parse
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.causality import check_causality
from ancestral_exporter.bundle.compare import Tolerance, compare
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.bundle.feeds import Subjects, make_feeds, original_answers
from ancestral_exporter.bundle.kernel import check_kernel
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import RUN_FAILURES, Array, open_session, run_role, signature_problems
from ancestral_exporter.models.base import Bundled, ForeignGraph, ImageShape

BATCHES = (1, 2, 7, 64)
# Values of all images of a batch of more than 2. A net for large images holds hundreds of times as many floats while it
# runs: 64 images of 512×512 pixels would be tens of gigabytes, and be verified for minutes.
_MOST_VALUES = 2**22
# Of a manifest; whoever made it wrong in one place may have done so in thousands.
MOST_PROBLEMS = 5
# onnxruntime against PyTorch on one machine: float32 in another order.
FRESH_TOLERANCE = Tolerance(2e-5, 0.002)


def verify_bundle(path: Path, *, placed: bool = True) -> VerifyReport:
    """Verify a bundle by what is in it: files, manifest, the recorded answers at batches 1, 2, 7 and 64, causality.

    Of large images the larger batches are left out.

    `placed` is false for a bundle that does not yet lie in `<name>/<version>`.
    """
    report = VerifyReport(str(path))
    manifest = _read_manifest(report, path)
    if manifest is None:
        return report
    if placed:
        here, says = f"{path.resolve().parent.name}/{path.resolve().name}", f"{manifest.name}/{manifest.version}"
        report.add(MANIFEST, here == says, f"is of {says}" + ("" if here == says else f", but lies in {here}"))
    if not _check_manifest(report, manifest):
        return report
    _check_files(report, path, manifest)
    if not report.ok:
        return report
    roles = list(manifest.roles)
    sessions = _open(report, path, roles)
    golden = _load_golden(report, path, manifest)
    if report.failures:
        return report
    tolerance = Tolerance(manifest.golden.tolerance, manifest.golden.pixel_tolerance)
    for role in roles:
        feeds, wanted = _recorded(golden, role)
        for batch in sorted({*_batches(manifest.image), len(next(iter(feeds.values())))}):
            index = np.arange(batch) % len(next(iter(feeds.values())))
            tiled = {name: value[index] for name, value in feeds.items()}
            answers = {name: value[index] for name, value in wanted.items()}
            compare(report, "recorded", sessions[role.graph], role, tiled, answers, tolerance)
        if role.HasField("kernel"):
            check_kernel(report, path, manifest, role, feeds, wanted)
    if _check_labels(report, manifest, sessions):
        _check_raster(report, manifest, sessions)
    return report


def verify_model(
    model: Bundled, folder: Path, subjects: Subjects | None = None, tolerance: Tolerance = FRESH_TOLERANCE
) -> VerifyReport:
    """Verify exported graphs in `folder` against the model that they are of, on fresh inputs at batches 1, 2, 7 and 64.

    Of large images the larger batches are left out. A raster graph's samples are computed once by PyTorch and must come
    back in every batch. `subjects` are the images (random ones when unset) and their labels.
    """
    report = VerifyReport(str(folder))
    subjects = subjects or random_subjects(model)
    for graph in model.graphs():
        roles = graph_roles(graph)
        against = "against the original" if isinstance(graph, ForeignGraph) else "against PyTorch"
        sessions = _open(report, folder, roles)
        for role in roles:
            if role.graph not in sessions:
                continue
            if role.program == bundle_pb2.PROGRAM_RASTER:
                feeds = make_feeds(role, subjects.first(7))
                wanted = original_answers(graph, role, feeds)
            for batch in _batches(model.image):
                if role.program == bundle_pb2.PROGRAM_RASTER:
                    index = np.random.default_rng(batch).permutation(batch) % 7
                    these = {name: value[index] for name, value in feeds.items()}
                    answers = {name: value[index] for name, value in wanted.items()}
                else:
                    these = make_feeds(role, subjects.first(batch))
                    answers = original_answers(graph, role, these)
                compare(report, against, sessions[role.graph], role, these, answers, tolerance)
    return report


def random_subjects(model: Bundled, count: int = 64, seed: int = 1) -> Subjects:
    """Images of independent random bytes, and labels where the model knows them."""
    shape = model.image
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, shape.height, shape.width, shape.channels), dtype=np.uint8)
    labels = random.integers(0, model.label_count, count) if model.label_count else None
    return Subjects(images, labels, seed)


def _batches(image: bundle_pb2.ImageSpec | ImageShape) -> list[int]:
    values = image.height * image.width * image.channels
    return [batch for batch in BATCHES if batch <= 2 or batch * values <= _MOST_VALUES]


def _read_manifest(report: VerifyReport, path: Path) -> bundle_pb2.Bundle | None:
    try:
        if (size := (path / MANIFEST).stat().st_size) > rules.MAX_MANIFEST_BYTES:
            report.add(MANIFEST, False, f"has {size} bytes, must have at most {rules.MAX_MANIFEST_BYTES}")
            return None
        manifest = parse((path / MANIFEST).read_bytes(), strict=True)
    except OSError as error:
        report.add(MANIFEST, False, f"cannot be read: {error}")
        return None
    except NoManifest as error:
        report.add(MANIFEST, False, str(error))
        return None
    report.add(MANIFEST, True, f"schema {manifest.schema}")
    return manifest


def _check_files(report: VerifyReport, path: Path, manifest: bundle_pb2.Bundle) -> None:
    listed = {MANIFEST}
    for file in manifest.files:
        listed.add(file.path)
        pure = PurePosixPath(file.path)
        if not (path / pure).is_file():
            report.add(file.path, False, "is missing")
            continue
        size = (path / pure).stat().st_size
        if size != file.size_bytes:
            report.add(file.path, False, f"has {size} bytes, the manifest says {file.size_bytes}")
            continue
        digest = sha256(path / pure)
        same = digest == file.sha256
        detail = f"{size} bytes, SHA-256 {digest[:12]}…" if same else f"has SHA-256 {digest}, not {file.sha256}"
        report.add(file.path, same, detail)
    for extra in sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()):
        if extra not in listed:
            report.add(extra, False, "is not in the manifest")


def sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check_manifest(report: VerifyReport, manifest: bundle_pb2.Bundle) -> bool:
    found = list(rules.problems(manifest))
    if not manifest.family:
        found.append("no family")
    names = ", ".join(role.name for role in manifest.roles)
    return report.add(MANIFEST, not found, "; ".join(found[:MOST_PROBLEMS]) or f"roles {names}")


def _open(report: VerifyReport, folder: Path, roles: Sequence[bundle_pb2.Role]) -> dict[str, Any]:
    """Sessions by graph file, of the graphs that load and have the tensors that the roles name."""
    sessions: dict[str, Any] = {}
    for role in roles:
        if role.graph not in sessions:
            try:
                sessions[role.graph] = open_session(folder / role.graph)
            except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
                report.add(role.graph, False, f"does not load: {error}")
                continue
        problems = signature_problems(sessions[role.graph], role)
        report.add(f"{role.graph} {role.name}", not problems, "; ".join(problems) or "has the tensors of the manifest")
    return sessions


def _load_golden(report: VerifyReport, path: Path, manifest: bundle_pb2.Bundle) -> dict[str, Array]:
    """Golden arrays by name, every one that the roles need; problems go to the report."""
    file = manifest.golden.path
    try:
        with np.load(path / file, allow_pickle=False) as archive:
            golden = dict(archive)
    except (OSError, ValueError, EOFError, KeyError) as error:
        report.add(file, False, f"cannot be read: {error}")
        return {}
    needed = [f"{r.name}/in/{s.name}" for r in manifest.roles for s in r.inputs]
    needed += [f"{r.name}/out/{s.name}" for r in manifest.roles for s in r.outputs]
    missing = [name for name in needed if name not in golden or len(golden[name]) == 0]
    report.add(file, not missing, f"lacks {', '.join(missing)}" if missing else f"{len(golden)} recorded arrays")
    return golden


def _recorded(golden: Mapping[str, Array], role: bundle_pb2.Role) -> tuple[dict[str, Array], dict[str, Array]]:
    return (
        {spec.name: golden[f"{role.name}/in/{spec.name}"] for spec in role.inputs},
        {spec.name: golden[f"{role.name}/out/{spec.name}"] for spec in role.outputs},
    )


def _check_labels(report: VerifyReport, manifest: bundle_pb2.Bundle, sessions: Mapping[str, Any]) -> bool:
    """Whether every role that takes a label runs with the first and with the last one."""
    fine = True
    image, last = manifest.image, manifest.label_count - 1
    subjects = Subjects(np.zeros((2, image.height, image.width, image.channels), np.uint8), np.array([0, last]), 3)
    for role in manifest.roles:
        if all(spec.meaning != bundle_pb2.MEANING_LABEL for spec in role.inputs):
            continue
        subject = f"{role.graph} {role.name}"
        try:
            run_role(sessions[role.graph], role, make_feeds(role, subjects), image.height)
        except RUN_FAILURES as error:
            what = f"fails with label {last}, label_count is {manifest.label_count}: {error}"
            fine = report.add(subject, False, what)
        else:
            report.add(subject, True, f"runs with labels 0 and {last}")
    return fine


def _check_raster(report: VerifyReport, manifest: bundle_pb2.Bundle, sessions: Mapping[str, Any]) -> None:
    """Causality of every raster role, and that an exact score agrees with it on its samples."""
    image = manifest.image
    for role in manifest.roles:
        if role.program != bundle_pb2.PROGRAM_RASTER:
            continue
        check_causality(report, sessions[role.graph], role, image, manifest.label_count)
        score = next((r for r in manifest.roles if r.likelihood == bundle_pb2.LIKELIHOOD_EXACT), None)
        if score is not None:
            _check_score(report, sessions, role, score, manifest)


def _check_score(
    report: VerifyReport,
    sessions: Mapping[str, Any],
    raster: bundle_pb2.Role,
    score: bundle_pb2.Role,
    manifest: bundle_pb2.Bundle,
) -> None:
    """The log-likelihood that comes with a free sample is the score of that image."""
    image, batch = manifest.image, 8
    labels = np.arange(batch) % manifest.label_count if manifest.label_count else None
    blank = np.zeros((batch, image.height, image.width, image.channels), np.uint8)
    feeds = make_feeds(raster, Subjects(blank, labels, 2))
    known = next(spec.name for spec in raster.inputs if spec.meaning == bundle_pb2.MEANING_KNOWN)
    feeds[known][:] = False
    drawn = run_role(sessions[raster.graph], raster, feeds, image.height)
    outputs = {spec.meaning: drawn[spec.name] for spec in raster.outputs}
    if bundle_pb2.MEANING_LOG_LIKELIHOOD not in outputs:
        return
    scored_feeds = make_feeds(score, Subjects(outputs[bundle_pb2.MEANING_ROW], labels, 2))
    scored = run_role(sessions[score.graph], score, scored_feeds, image.height)
    name = next(spec.name for spec in score.outputs if spec.meaning == bundle_pb2.MEANING_LOG_LIKELIHOOD)
    worst = float(np.abs(scored[name] - outputs[bundle_pb2.MEANING_LOG_LIKELIHOOD]).max())
    subject = f"{raster.graph} against {score.graph}"
    report.add(subject, worst <= 1e-3, f"log-likelihoods of {batch} samples differ by at most {worst:.3g} nats")
