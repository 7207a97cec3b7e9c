"""The command `ancestral-exporter`. What takes seconds to import (torch, Lightning) is imported when it is needed."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from ancestral_exporter.errors import ExporterError, UsageError

if TYPE_CHECKING:
    from ancestral_exporter.make import Made
    from ancestral_exporter.recipes import Recipe

app = typer.Typer(
    help="Train image models, export them to ONNX, and verify what was exported.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain: in its panels typer says of each flag that it takes a <bool>.
    rich_markup_mode=None,
)


class Precision(StrEnum):
    FULL = "32"
    BFLOAT = "bf16"
    HALF = "16"


class LikelihoodName(StrEnum):
    BERNOULLI = "bernoulli"
    CATEGORICAL = "categorical"
    GAUSSIAN = "gaussian"


def tell_version(wanted: bool) -> None:
    if wanted:
        print(f"ancestral-exporter {metadata.version('ancestral')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
    ] = False,
) -> None:
    """What every command may be preceded by."""


@app.command(short_help="Train, export and verify a model.")
def train(
    recipe: Annotated[str, typer.Argument(help="What to train: see `ancestral-exporter recipes`.")],
    models: Annotated[Path, typer.Option(help="Folder of the models; the bundle goes to MODELS/RECIPE/VERSION/.")],
    data: Annotated[Path | None, typer.Option(help="Folder with the data set's files; only MNIST has any.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images, instead of the recipe's; 0 exports untrained.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Same seed, same weights.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="bf16 or 16 are mixed precision: faster on GPUs, a little less exact.")
    ] = Precision.FULL,
    devices: Annotated[
        str, typer.Option(help="How many GPUs (or processes on the CPU) share each batch; auto takes what is there.")
    ] = "auto",
    likelihood: Annotated[
        LikelihoodName | None, typer.Option(help="p(x|z) of a VAE, instead of the recipe's; gaussian is a density.")
    ] = None,
) -> None:
    """Train, evaluate, export, verify, and write the next version of a model.

    An interrupted training continues when the same command is given again.
    """
    from ancestral_exporter.recipes import adapt, find

    console = Console()
    chosen = adapt(find(recipe), epochs=epochs, likelihood=likelihood.value if likelihood else None)
    from ancestral_exporter.make import make
    from ancestral_exporter.progress import Announcer
    from ancestral_exporter.training import Options

    options = Options(seed=seed, precision=precision.value, devices=devices)
    made = make(chosen, models, data, options, Announcer(console, chosen.name))
    if made.evaluations:
        console.print(result_table(chosen, made))
    console.print(f"wrote {made.path}", highlight=False, markup=False, soft_wrap=True)


@app.command(short_help="Check a bundle: its files and its answers.")
def verify(bundle: Annotated[Path, typer.Argument(help="Folder of a bundle: MODELS/NAME/VERSION.")]) -> None:
    """Check a bundle: its files, its recorded answers at several batch sizes, its causality."""
    from ancestral_exporter.bundle import verify_bundle

    if not bundle.is_dir():
        raise ExporterError(f"{bundle}: no such folder")
    names = (manifest.parent.name for manifest in bundle.glob("*/bundle.json"))
    versions = sorted(int(name) for name in names if name.isdecimal())
    if versions and not (bundle / "bundle.json").exists():
        there = ", ".join(map(str, versions))
        raise ExporterError(f"{bundle}: is a model, not one of its versions; there are versions: {there}")
    report = verify_bundle(bundle)
    typer.echo(str(report))
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def recipes() -> None:
    """List what can be trained."""
    from ancestral_exporter.data import FETCHED
    from ancestral_exporter.recipes import RECIPES

    # The name is there to be copied: where the terminal is narrow, let the description wrap.
    table = Table(Column("recipe", no_wrap=True), "what it is", "data", "epochs")
    for entry in RECIPES.values():
        where = "--data DIR" if entry.data in FETCHED else "included"
        table.add_row(entry.name, entry.description, f"{entry.data} ({where})", str(entry.schedule.epochs))
    Console().print(table)


def result_table(recipe: Recipe, made: Made) -> Table:
    """Test figures of the bundle beside the recipe's references."""
    from ancestral_exporter.card import likelihood_word

    test = made.evaluations[-1]
    if not test.discrete:
        table = Table("", "nats/image")
        table.add_row(f"[bold]{recipe.name}[/], test, density (no bits/dim to compare)", f"{test.nats:.2f}")
        return table
    table = Table("", "bits/dim", "nats/image")
    for reference in recipe.references:
        nats = reference.bits_per_dim * test.nats / test.bits_per_dim
        table.add_row(reference.text, f"{reference.bits_per_dim:.4g}", f"{nats:.1f}")
    name = f"[bold]{recipe.name}[/], {test.images} test images, {likelihood_word(test.likelihood)}"
    table.add_row(name, f"[bold]{test.bits_per_dim:.4f}[/]", f"{test.nats:.2f}")
    return table


def main() -> None:
    """Entry point: exit code 0, 1 for an error (one line on stderr), 2 for wrong usage, 130 for Ctrl-C."""
    try:
        app()
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except ExporterError as error:
        _complain(error)
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        _complain(f"{error.filename}: {error.strerror}")
        sys.exit(1)


def _complain(error: object) -> None:
    print(f"ancestral-exporter: {error}", file=sys.stderr)
