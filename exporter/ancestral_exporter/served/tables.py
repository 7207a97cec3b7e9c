"""An evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ancestral.text import shown
from ancestral_exporter.served.evaluation import Evaluation
from ancestral_exporter.served.latents import ACTIVE_VARIANCE
from ancestral_exporter.served.likelihood import Likelihood
from ancestral_exporter.served.probes import DRAWS, Probe
from ancestral_exporter.served.samples import SURE, Classes

# Latents that a table lists, the most telling first.
_LATENTS = 10


@dataclass(frozen=True)
class Rows:
    """A title, a header, and rows of as many cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def print_evaluation(found: Evaluation, console: Console) -> None:
    console.print(shown(f"{found.bundle} version {found.version}, family {found.family}"))
    console.print(shown(f"{found.data}. Binarisation: {found.binarisation}."))
    for table in tables(found):
        console.print()
        console.print(shown(table.title), style="bold")
        grid = Table()
        for i, column in enumerate(table.header):
            grid.add_column(shown(column), justify="right" if i else "left")
        for row in table.rows:
            grid.add_row(*map(shown, row))
        console.print(grid)
    if found.not_applicable:
        console.print()
        console.print("Not applicable", style="bold")
        for name, reason in found.not_applicable.items():
            console.print(shown(f"  {name}: {reason}"))


def tables(found: Evaluation) -> Iterator[Rows]:
    if found.likelihood:
        yield _likelihood(found.likelihood, found.part)
    if found.latents:
        yield _latents(found)
    about = tuple(_about(found))
    if about:
        yield Rows("Through encode, decode and classify", ("", "images", ""), about)
    if found.probes:
        yield _probes(found.probes, found.part)
    if found.classes:
        yield _classes(found.classes, found.class_names, found.part)
    samples = tuple(_samples(found))
    if samples:
        yield Rows("Samples", ("", "", "to hold it against"), samples)


def _likelihood(found: Likelihood, part: str) -> Rows:
    kind = "density" if found.density else "likelihood"
    title = f"Negative log-{kind} of {found.images} {part} images, lower is better"
    if found.exact:
        rows = [("exact", *_nats(found.nats, found.nats_error, found.bits_per_dim))]
    else:
        elbo = f"upper bound: negative ELBO, {found.draws} draws an image"
        rows = [("≤ " + elbo, *_nats(found.nats, found.nats_error, found.bits_per_dim))]
        if found.bound_nats is not None:
            closer = f"≤ importance-weighted bound, k = {found.draws}"
            rows.append((closer, *_nats(found.bound_nats, None, found.bound_bits_per_dim)))
    return Rows(title, ("", "nats/image", "bits/dim"), tuple(rows))


def _nats(nats: float, error: float | None, bits: float | None) -> tuple[str, str]:
    return f"{nats:.2f}" + (f" ± {error:.2f}" if error is not None else ""), "–" if bits is None else f"{bits:.4f}"


def _latents(found: Evaluation) -> Rows:
    assert found.latents
    latents, divergences = found.latents, found.latents.divergences
    title = (
        f"{latents.active} of {len(latents.variances)} latents are active (variance of the mean > {ACTIVE_VARIANCE})"
    )
    worth = divergences or latents.variances
    order = sorted(range(len(worth)), key=lambda i: -worth[i])[:_LATENTS]
    header = ("latent", "KL, nats", "variance of the mean") if divergences else ("latent", "variance of the mean")
    rows = [(str(i), *([f"{divergences[i]:.3f}"] if divergences else []), f"{latents.variances[i]:.4f}") for i in order]
    if divergences:
        rows.append(("all", f"{sum(divergences):.2f}", ""))
    return Rows(title, header, tuple(rows))


def _about(found: Evaluation) -> Iterator[tuple[str, str, str]]:
    if found.reconstruction:
        error = f"{found.reconstruction.squared_error:.3f}"
        yield "squared error of encode, then decode (intensities in [0,1])", str(found.reconstruction.images), error
    if found.classifier:
        yield "error of classify", str(found.classifier.images), f"{found.classifier.error:.2%}"
        yield "−log p(class), nats", str(found.classifier.images), f"{found.classifier.nats:.4f}"


def _probes(probes: Iterable[Probe], part: str) -> Rows:
    by_row: dict[tuple[str, str], list[Probe]] = {}
    for entry in probes:
        by_row.setdefault((entry.classifier, entry.encoding), []).append(entry)
    counts = [entry.labelled for entry in next(iter(by_row.values()))]
    rows = []
    for classifier in dict.fromkeys(name for name, _ in by_row):
        for (kind, encoding), entries in by_row.items():
            if kind == classifier:
                rows.append((f"{classifier}, {encoding}", *(_percent(entry) for entry in entries)))
    title = f"{part.capitalize()} images classified right, by few labels (mean of {DRAWS} choices of them ± deviation)"
    return Rows(title, ("", *(f"{count} labels" for count in counts)), tuple(rows))


def _percent(entry: Probe) -> str:
    return f"{entry.accuracy:.1%}" + (f" ± {100 * entry.deviation:.1f}" if entry.deviation else "")


def _classes(found: Classes, names: tuple[str, ...], part: str) -> Rows:
    right = f"{found.test_accuracy:.1%} of {part} images"
    title = f"Classes of {found.images} samples, by a classifier that is right on {right}"
    total, test_total = sum(found.histogram), sum(found.test_histogram)
    rows = [
        (names[i] if i < len(names) else str(i), f"{count / total:.1%}", f"{test / test_total:.1%}")
        for i, (count, test) in enumerate(zip(found.histogram, found.test_histogram, strict=True))
    ]
    rows.append((f"sure of (p > {SURE})", f"{found.sure:.1%}", f"{found.test_sure:.1%}"))
    if found.agreeing is not None:
        rows.append(("are what was asked for", f"{found.agreeing:.1%}", f"{found.test_accuracy:.1%}"))
    return Rows(title, ("class", "samples", f"{part} images"), tuple(rows))


def _samples(found: Evaluation) -> Iterator[tuple[str, str, str]]:
    if found.frechet:
        distance = found.frechet
        floor = f"{distance.floor:.3f} for training images; {distance.images} of each, by that classifier's features"
        yield f"Fréchet distance from {found.part} images", f"{distance.distance:.3f}", floor
    if found.memory:
        memory = found.memory
        of = f"nearest of {memory.pool} each; 1 without copying, 0 for copies"
        yield f"distance to a training image / to a {found.part} image, median", f"{memory.ratio:.3f}", of
        yield f"nearer to a training image than to a {found.part} image", f"{memory.nearer:.1%}", "50 % without copying"
        yield "copies of a training image", str(memory.copies), f"of {memory.samples} samples"
