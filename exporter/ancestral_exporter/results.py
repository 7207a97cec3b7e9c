"""What trained bundles reach, beside published figures: a page of Markdown, from their manifests alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral.bundle.manifest import MANIFEST
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.card import CARD
from ancestral_exporter.errors import UsageError
from ancestral_exporter.plots import SAMPLES

_INTRODUCTION = """\
Figures are of test images, looked at once, after validation had chosen the weights. Nats are the negative
log-likelihood of an image, a mean; bits/dim are nats / (H·W·C · ln 2). A bound is the negative ELBO, which is no
smaller than the exact figure. Figures under different binarisations of MNIST do not compare. Empty cells are of
bundles that do not say it.
"""


@dataclass(frozen=True)
class Result:
    """A bundle's folder and manifest, and the settings of the recipe that it was trained by."""

    folder: Path
    manifest: bundle_pb2.Bundle
    settings: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The name of the data, as recipes have it."""
        data = self.settings.get("data", "")
        # Bundles of before 0.2 have no more than the name.
        return str(data.get("source", "") if isinstance(data, dict) else data)

    def test_metric(self, *names: str) -> bundle_pb2.Metric | None:
        """The first metric of the test images, by one of these names, or by any."""
        found = (m for m in self.manifest.metrics if m.split == "test" and (not names or m.name in names))
        return next(found, None)


def find_results(folders: Sequence[Path]) -> list[Result]:
    """The bundles in these folders: each a bundle, or a folder of models, of which the latest version counts.

    Raises UsageError for a folder with neither. A bundle that was never tested is left out.
    """
    found = []
    for folder in folders:
        bundles = [folder] if (folder / MANIFEST).exists() else list(_latest(folder))
        if not bundles:
            raise UsageError(f"{folder}: is neither a bundle nor a folder of models (MODEL/VERSION/{MANIFEST})")
        for path in bundles:
            manifest = read_manifest(path)
            result = Result(path, manifest, json.loads(manifest.provenance.get("settings", "{}")))
            if result.test_metric():
                found.append(result)
    return sorted(found, key=lambda result: (result.source, result.manifest.name))


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
        lines += _published(of_source)
        lines += ["", *_pictures(of_source, home)]
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
    name = result.manifest.name
    seconds = about.get("training_seconds")
    cells = [
        f"[{name}]({link})" if (link := _link(result.folder / CARD, home)) else name,
        f"{bits.value:.4f}" if bits else "",
        f"{nats.value:.2f}" if nats else "",
        how,
        f"{int(about['parameters']):,}" if about.get("parameters", "").isdecimal() else "",
        f"{float(seconds) / 60:.1f} min" if seconds else "",
        about.get("machine") or about.get("device", ""),
    ]
    return f"| {' | '.join(cells)} |"


def _published(results: Sequence[Result]) -> Iterator[str]:
    references = (reference for result in results for reference in result.settings.get("references") or ())
    figures = {reference["text"]: float(reference["bits_per_dim"]) for reference in references}
    for text, bits in sorted(figures.items(), key=lambda entry: entry[1]):
        yield f"| {text} | {bits:.4g} | | | | | |"


def _pictures(results: Sequence[Result], home: Path) -> Iterator[str]:
    for result in results:
        if link := _link(result.folder / SAMPLES, home):
            yield f"Samples of `{result.manifest.name}`, not picked:"
            yield ""
            yield f"![samples of {result.manifest.name}]({link})"
            yield ""


def _link(path: Path, home: Path) -> str:
    """From the page to a file; "" where there is none, or where it lies elsewhere."""
    path, home = path.resolve(), home.resolve()
    return path.relative_to(home).as_posix() if path.exists() and path.is_relative_to(home) else ""
