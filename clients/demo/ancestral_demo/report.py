"""The demo's report: one set of figures, as tables in the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ancestral.text import shown
from ancestral_client.files import write_json, write_text
from ancestral_demo.digits import LABELLED, Accuracy
from ancestral_demo.latency import Latency

# Bits per dimension on the same split. Uniform over 17 levels: log2 17. The published ones are read off the curves of
# jmtomczak/intro_dgm: its autoregressive model (exact) and its VAE (one-sample ELBO).
UNIFORM = 4.09
REPORTS = ("report.md", "report.json")
PUBLISHED = {"pixelcnn": ("autoregressive", 2.00), "vae": ("VAE, bound", 2.27)}


@dataclass(frozen=True)
class Likelihood:
    """Test bits per dimension of one model, made for some purpose; an upper bound unless `exact`."""

    model: str
    purpose: str
    version: int
    family: str
    bits_per_dim: float
    exact: bool


@dataclass(frozen=True)
class Report:
    """Everything that the demo measured."""

    likelihoods: Sequence[Likelihood]
    accuracies: Sequence[Accuracy]
    latencies: Sequence[Latency]
    seconds: float

    def tables(self) -> list[Sequence[Sequence[str]]]:
        """Each a title row, a header row and rows."""
        likelihoods = [
            [f"Test bits/dim on digits, lower is better; of uniform noise {UNIFORM}"],
            ["model", "bits/dim", "published", "made for"],
        ]
        for entry in self.likelihoods:
            name, figure = PUBLISHED.get(entry.family, ("", float("nan")))
            ours = f"{'' if entry.exact else '≤ '}{entry.bits_per_dim:.3f}"
            row = [
                f"{entry.model} version {entry.version}",
                ours,
                f"{figure:.2f} ({name})",
                entry.purpose,
            ]
            likelihoods.append(row)

        columns = [f"{n} labels" for n in LABELLED]
        accuracy = [["Test accuracy of a logistic regression, same labelled images for all"], ["features", *columns]]
        for name in dict.fromkeys(entry.features for entry in self.accuracies):
            found = {entry.labelled: entry for entry in self.accuracies if entry.features == name}
            accuracy.append([name, *(_percent(found[n]) for n in LABELLED)])

        latency = [["Latency in the server, from its metrics endpoint"], ["RPC", "calls", "p50 ms", "p99 ms"]]
        latency += [
            [entry.method, str(entry.calls), f"{entry.p50 * 1000:.2f}", f"{entry.p99 * 1000:.2f}"]
            for entry in self.latencies
        ]
        return [likelihoods, accuracy, latency]

    def print(self, console: Console) -> None:
        for (title,), header, *rows in self.tables():
            console.print(f"\n{title}", style="bold")
            table = Table()
            for values in zip(header, *rows, strict=True):
                # However narrow the terminal is, no name or figure is cut.
                words = " ".join(values).split()
                table.add_column(
                    values[0], justify="right" if table.columns else "left", min_width=max(map(len, words), default=0)
                )
            for row in rows:
                table.add_row(*map(shown, row))
            console.print(table)

    def write(self, folder: Path) -> None:
        """`report.md` and `report.json`."""
        lines = ["# Ancestral on digits", "", "Written by `make demo`."]
        for (title,), header, *rows in self.tables():
            lines += [
                "",
                f"## {title}",
                "",
                _row(header),
                _row(["---", *["---:"] * (len(header) - 1)]),
                *map(_row, rows),
            ]
        lines += ["", f"The demo took {self.seconds:.0f} s without installation.", ""]
        markdown, figures = REPORTS
        write_text(folder / markdown, "\n".join(lines))
        document = {**asdict(self), "uniform_bits_per_dim": UNIFORM, "published_bits_per_dim": PUBLISHED}
        write_json(folder / figures, document)


def _percent(accuracy: Accuracy) -> str:
    spread = f" ± {accuracy.deviation * 100:.1f}" if accuracy.deviation else ""
    return f"{accuracy.mean * 100:.1f} %{spread}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
