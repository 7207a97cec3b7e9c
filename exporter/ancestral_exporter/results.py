"""What trained bundles reach, beside published figures: a page of Markdown, from their manifests and evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ancestral.bundle.manifest import MANIFEST
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest, settings_of
from ancestral_exporter.card import CARD
from ancestral_exporter.errors import UsageError
from ancestral_exporter.plots import SAMPLES
from ancestral_exporter.recipes import find, shipped
from ancestral_exporter.served.pictures import MANIFOLD, RECONSTRUCTIONS, TRAVERSALS
from ancestral_exporter.served.probes import LINEAR, SPREADING, SVM
from ancestral_exporter.served.samples import SURE

# What `evaluate --json` is to write in the folder of a bundle's evaluation.
EVALUATION = "evaluation.json"

_INTRODUCTION = """\
Figures are of test images, looked at once, after validation had chosen the weights. Nats are the negative
log-likelihood of an image, a mean; bits/dim are nats / (H·W·C · ln 2). A bound is the negative ELBO, which is no
smaller than the exact figure. Figures under different binarisations of MNIST do not compare. Empty cells are of
bundles that do not say it.
"""


@dataclass(frozen=True)
class Probed:
    """Of `served.probes.Probe` what the page tells."""

    classifier: str
    encoding: str
    labelled: int
    accuracy: float


@dataclass(frozen=True)
class Judged:
    """Of `served.samples.Classes` what the page tells."""

    images: int
    sure: float
    test_sure: float
    test_accuracy: float


@dataclass(frozen=True)
class Evaluated:
    """Of what `evaluate --json` writes what the page tells."""

    bundle: str
    version: int
    part: str
    probes: tuple[Probed, ...] = ()
    classes: Judged | None = None


_EVALUATED = TypeAdapter(Evaluated)


@dataclass(frozen=True)
class Result:
    """A bundle's folder and manifest, and the settings of the recipe that it was trained by.

    evaluation: what `evaluate` found out about it; evaluated: the folder where that lies; None where nothing was.
    """

    folder: Path
    manifest: bundle_pb2.Bundle
    settings: Mapping[str, Any]
    evaluation: Evaluated | None = None
    evaluated: Path | None = None

    @property
    def data(self) -> Mapping[str, Any]:
        """`[data]` of the recipe."""
        data = self.settings.get("data", {})
        # Bundles of before 0.2 have no more than the name.
        return data if isinstance(data, dict) else {"source": data}

    @property
    def source(self) -> str:
        """The name of the data, as recipes have it."""
        return str(self.data.get("source", ""))

    def references(self) -> Iterator[tuple[str, float]]:
        """Published figures in bits/dim, by their texts."""
        found = self.settings.get("references")
        for reference in found if isinstance(found, list) else ():
            if isinstance(reference, dict) and (bits := _number(reference.get("bits_per_dim"))) is not None:
                yield str(reference.get("text", "")), bits

    def test_metric(self, *names: str) -> bundle_pb2.Metric | None:
        """The first metric of the test images, by one of these names, or by any."""
        found = (m for m in self.manifest.metrics if m.split == "test" and (not names or m.name in names))
        return next(found, None)


def find_results(folders: Sequence[Path], evaluated: Path | None = None) -> list[Result]:
    """The bundles in these folders: each a bundle, or a folder of models, of which the latest version counts.

    A model that lies in several folders counts once, by its latest version; where that is the same, in the first one.

    evaluated: a folder that has NAME/evaluation.json, and pictures beside it, of some of them.
    Raises UsageError for a folder with neither, and for an evaluation that cannot be read. A bundle that was never
    tested is left out.
    """
    evaluations = {(each.bundle, each.version): (each, where) for each, where in _evaluations(evaluated)}
    bundles = [folder for folder in folders if (folder / MANIFEST).exists()]
    latest: dict[str, Path] = {}
    for folder in folders:
        if folder in bundles:
            continue
        models = list(_latest(folder))
        if not models:
            raise UsageError(f"{folder}: is neither a bundle nor a folder of models (MODEL/VERSION/{MANIFEST})")
        for path in models:
            known = latest.setdefault(path.parent.name, path)
            if int(path.name) > int(known.name):
                latest[path.parent.name] = path
    found = []
    for path in (*bundles, *latest.values()):
        manifest = read_manifest(path)
        found_out, where = evaluations.get((manifest.name, manifest.version), (None, None))
        result = Result(path, manifest, settings_of(manifest), found_out, where)
        if result.test_metric():
            found.append(result)
    return sorted(found, key=lambda result: (result.source, result.manifest.name))


def _evaluations(evaluated: Path | None) -> Iterator[tuple[Evaluated, Path]]:
    """What was found out about bundles on test images, and the folder of each."""
    if evaluated is None:
        return
    if not evaluated.is_dir():
        raise UsageError(f"{evaluated}: there is no such folder of evaluations")
    for path in sorted(evaluated.glob(f"*/{EVALUATION}")):
        try:
            found = _EVALUATED.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UsageError(
                f"{path}: is not what `ancestral-exporter evaluate --json` writes ({_reason(error)}); write it anew"
            ) from error
        if found.part == "test":
            yield found, path.parent


def _reason(error: OSError | ValidationError) -> str:
    """In a few words."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    problem = error.errors()[0]
    return ": ".join(part for part in (".".join(map(str, problem["loc"])), problem["msg"]) if part)


def _latest(folder: Path) -> Iterator[Path]:
    for model in sorted(folder.glob("[!.]*")):
        versions = [path.parent for path in model.glob(f"*/{MANIFEST}") if path.parent.name.isdecimal()]
        if versions:
            yield max(versions, key=lambda path: int(path.name))


def results_page(results: Sequence[Result], home: Path) -> str:
    """The page. home: the folder that it will lie in; it links to the bundles that lie below it, and to no other."""
    lines = ["# Results", "", _INTRODUCTION]
    for source in dict.fromkeys(result.source for result in results):
        of_source = [result for result in results if result.source == source]
        lines += [f"## {source or 'unknown data'}", ""]
        lines += ["| | bits/dim | nats | | parameters | trained for | on |", "|---|---:|---:|---|---:|---:|---|"]
        lines += [_row(result, home) for result in of_source]
        lines += _published(of_source, source)
        lines += ["", *_few_labels(of_source), *_judged(of_source), *_pictures(of_source, home)]
    lines += _without_bundle(results)
    return "\n".join(lines).rstrip() + "\n"


def _row(result: Result, home: Path) -> str:
    about = result.manifest.provenance
    bits, nats = result.test_metric("bits_per_dim"), result.test_metric("negative_log_likelihood")
    density, how = result.test_metric("negative_log_density"), ""
    if nats is not None:
        bound = nats.likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND
        how = "bound, ELBO" if bound else "exact"
    elif density is not None:
        nats, how = density, "bound of a density: compares with nothing above"
    elif (other := result.test_metric()) is not None:
        how = f"no likelihood; {other.name.replace('_', ' ')} {other.value:.4g} {other.unit}".rstrip()
    if (error := result.test_metric("error")) is not None:
        labelled = result.data.get("labelled")
        how += f"; classifies {error.value:.2%} wrong"
        how += f" after {labelled:,} labels" if isinstance(labelled, int) else ""
    name = result.manifest.name
    seconds = _number(about.get("training_seconds"))
    cells = [
        f"[{name}]({link})" if (link := _link(result.folder / CARD, home)) else name,
        f"{bits.value:.4f}" if bits else "",
        f"{nats.value:.2f}" if nats else "",
        how,
        f"{int(about['parameters']):,}" if about.get("parameters", "").isdecimal() else "",
        f"{seconds / 60:.1f} min" if seconds else "",
        about.get("machine") or about.get("device", ""),
    ]
    return f"| {' | '.join(cells)} |"


def _published(results: Sequence[Result], source: str) -> Iterator[str]:
    """Rows of the figures that the bundles' recipes name, and today's recipes of the same data."""
    figures = {text: bits for result in results for text, bits in result.references()}
    for recipe in (find(summary.name) for summary in shipped() if summary.source == source):
        figures |= {reference.text: reference.bits_per_dim for reference in recipe.references}
    for text, bits in sorted(figures.items(), key=lambda entry: entry[1]):
        yield f"| {text} | {bits:.4f} | | | | | |"


def _without_bundle(results: Sequence[Result]) -> Iterator[str]:
    """The shipped recipes that the page has no figures of: bundles may have other names than their recipes."""
    trained = {result.settings.get("name") for result in results}
    if names := [f"`{summary.name}`" for summary in shipped() if summary.name not in trained]:
        yield "## Recipes without a bundle here"
        yield ""
        yield f"{', '.join(names)}."


def _number(value: object) -> float | None:
    """Of a provenance, which anybody may have written."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _few_labels(results: Sequence[Result]) -> Iterator[str]:
    """A table of what classifiers that know few labels make of the encodings of each bundle."""
    for result in results:
        rows: dict[tuple[str, str], dict[int, float]] = {}
        for entry in result.evaluation.probes if result.evaluation else ():
            if entry.classifier in (LINEAR, SVM, SPREADING):
                errors = rows.setdefault((entry.classifier, entry.encoding), {})
                errors[entry.labelled] = 1 - entry.accuracy
        if not rows:
            continue
        counts = sorted({count for errors in rows.values() for count in errors})
        yield f"Test images that a classifier of few labels gets wrong, by what it sees: `{result.manifest.name}`"
        yield ""
        yield f"| {' | '.join(['', *(f'{count:,} labels' for count in counts)])} |"
        yield f"|---|{'---:|' * len(counts)}"
        for (classifier, encoding), errors in sorted(rows.items(), key=lambda row: row[0][0]):
            cells = (f"{errors[count]:.2%}" if count in errors else "" for count in counts)
            yield f"| {' | '.join([f'{classifier}, {encoding}', *cells])} |"
        yield ""


def _judged(results: Sequence[Result]) -> Iterator[str]:
    """A table of the samples that a classifier is sure of."""
    judged = [
        (result.manifest.name, result.evaluation.classes)
        for result in results
        if result.evaluation is not None and result.evaluation.classes is not None
    ]
    if not judged:
        return
    yield f"How many samples, not picked, a classifier is sure of (p > {SURE}), and how many test images:"
    yield ""
    yield "| | samples | sure of | of test images | it gets right of these |"
    yield "|---|---:|---:|---:|---:|"
    for name, classes in judged:
        shares = (f"{share:.1%}" for share in (classes.sure, classes.test_sure, classes.test_accuracy))
        yield f"| {' | '.join([name, str(classes.images), *shares])} |"
    yield ""


def _pictures(results: Sequence[Result], home: Path) -> Iterator[str]:
    for result in results:
        pictures = {result.folder / SAMPLES: "Samples of `{}`, not picked:"}
        if result.evaluated is not None:
            pictures |= {
                result.evaluated / MANIFOLD: "The manifold of `{}`: its two latents along the two axes.",
                result.evaluated / TRAVERSALS: "Traversals of `{}`: in each row one latent changes, the others are 0.",
                result.evaluated / RECONSTRUCTIONS: "Test images as `{}` decodes what it encodes them to:",
            }
        for path, caption in pictures.items():
            if link := _link(path, home):
                yield caption.format(result.manifest.name)
                yield ""
                yield f"![{path.stem} of {result.manifest.name}]({link})"
                yield ""


def _link(path: Path, home: Path) -> str:
    """From the page to a file; "" where there is none, or where it lies elsewhere."""
    path, home = path.resolve(), home.resolve()
    return path.relative_to(home).as_posix() if path.exists() and path.is_relative_to(home) else ""
