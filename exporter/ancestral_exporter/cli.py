"""The command `ancestral-exporter`. What takes seconds to import (torch, Lightning) is imported when it is needed."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from ancestral.terminal import console
from ancestral.text import short, shown
from ancestral_exporter.complaints import complaining
from ancestral_exporter.errors import ExporterError, UsageError
from ancestral_exporter.files import check_place, write_whole
from ancestral_exporter.foreign.commands import app as import_app

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
app.add_typer(import_app, name="import")


class Precision(StrEnum):
    FULL = "32"
    BFLOAT = "bf16"
    HALF = "16"


class Part(StrEnum):
    TEST = "test"
    VALIDATION = "validation"


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
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="What to train: a name of `ancestral-exporter recipes`, or a file my-recipe.toml.")
    ],
    models: Annotated[Path, typer.Option(help="Folder of the models; the bundle goes to MODELS/RECIPE/VERSION/.")],
    data: Annotated[
        Path | None, typer.Option(help="Where the images are: MNIST's files, or your own folder, .npz, .npy, .parquet.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images, instead of the recipe's; 0 exports untrained.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Same seed, same weights.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="bf16 or 16 are mixed precision: faster on GPUs, a little less exact.")
    ] = Precision.FULL,
    minutes: Annotated[
        float | None,
        typer.Option(help="End in so many minutes, by fewer epochs if need be: the learning rate follows the clock."),
    ] = None,
    compile_: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the net's parts for its training first; by default on a GPU."
        ),
    ] = None,
    devices: Annotated[
        str, typer.Option(help="How many GPUs (or processes on the CPU) share each batch; auto takes what is there.")
    ] = "auto",
    likelihood: Annotated[
        str | None, typer.Option(help="Short for --set model.likelihood=...: p(x|z) of a VAE; gaussian is a density.")
    ] = None,
    kernels: Annotated[
        str | None,
        typer.Option(
            metavar="TARGETS",
            help="Machine code for NVIDIA GPUs, of a model that paints row by row: all, or such as sm_90,compute_80.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of the recipe, such as model.latent_size=64."),
    ] = None,
) -> None:
    """Train, evaluate, export, verify, and write the next version of a model.

    An interrupted training continues when the same command is given again.
    """
    from ancestral_exporter.recipes import find, refuse_idle

    stdout = console()
    settings = list(set_ or ())
    if epochs is not None:
        settings.append(f"schedule.epochs={epochs}")
    if likelihood is not None:
        settings.append(f"model.likelihood={likelihood}")
    chosen = find(recipe, settings)
    refuse_idle(chosen, {name for name in context.params if _given(context, name)})
    from ancestral_exporter.kernels.nvrtc import parse_targets
    from ancestral_exporter.make import make
    from ancestral_exporter.progress import Announcer
    from ancestral_exporter.training import Options

    targets = parse_targets(kernels, "--kernels") if kernels is not None else ()
    options = Options(seed, precision.value, devices, minutes, compile_)
    made = make(chosen, models, data, options, Announcer(stdout, chosen.name), targets)
    if made.evaluations:
        stdout.print(result_table(chosen, made))
    stdout.print(f"wrote {shown(made.path)}", soft_wrap=True)


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
def promote(
    source: Annotated[Path, typer.Argument(help="Folder of a bundle, NAME/VERSION, wherever it lies.")],
    models: Annotated[Path, typer.Argument(help="Folder of the models that shall have it; made where there is none.")],
    name: Annotated[str | None, typer.Option("--as", help="Its name there; by default its own.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Its number there, which no other bundle may have; by default the next free one.")
    ] = None,
) -> None:
    """Verify a bundle and copy it to MODELS under another name or number, at one stroke: a server may watch.

    The bundle in SOURCE stays as it is.
    """
    from ancestral_exporter.bundle.promote import promote_bundle
    from ancestral_exporter.bundle.write import LAST_VERSION

    if version is not None and not re.fullmatch("[0-9]{1,19}", version):
        raise UsageError(f"--version must be a whole number from 1 to {LAST_VERSION}, not {short(version)!r}")
    done = promote_bundle(source, models, name=name, version=None if version is None else int(version))
    typer.echo(f"{source} is already {done.path}" if done.already else f"promoted {source} to {done.path}")


@app.command(name="add-kernel", short_help="Give a bundle machine code for NVIDIA GPUs.")
def add_kernel(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle that paints row by row: MODELS/NAME/VERSION.")],
    targets: Annotated[
        str,
        typer.Option(help="Generations of GPUs: all, or such as sm_90,compute_80 (PTX, for 8.0 and all later ones)."),
    ] = "all",
) -> None:
    """Write the next version of a bundle, beside it, that has machine code for NVIDIA GPUs too.

    The bundle itself stays as it is. A kernel that it has already is replaced in the new version.
    """
    from ancestral_exporter.kernels.nvrtc import parse_targets

    chosen = parse_targets(targets, "--targets")
    from ancestral_exporter.bundle.add_kernel import add_kernel

    added = add_kernel(bundle, chosen)
    for remark in added.remarks:
        typer.echo(shown(remark))
    typer.echo(shown(f"wrote {added.path}"))


@app.command(short_help="Measure a bundle through the graphs that the server runs.")
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle: MODELS/NAME/VERSION.")],
    data: Annotated[
        Path | None, typer.Option(help="Where the images are, where the bundle's own data are not included.")
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Images that are measured, the first ones.")] = 1000,
    part: Annotated[
        Part, typer.Option(help="Which images: look at those of validation while you choose, at those of test once.")
    ] = Part.TEST,
    labels: Annotated[
        list[int] | None,
        typer.Option(
            metavar="COUNT", help="Labelled images to classify by, 50, 100 and 1000 by default; may be given again."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Images that are drawn.")] = 1000,
    draws: Annotated[int, typer.Option(min=1, help="Draws for each image of a bound of the likelihood.")] = 50,
    json: Annotated[Path | None, typer.Option(help="A file for every figure.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="A folder for pictures: samples, reconstructions, nearest training images.")
    ] = None,
) -> None:
    """Measure a bundle: likelihood, what its encodings are worth at few labels, how good its samples are.

    What the bundle has no role for is named as not applicable.
    """
    import json as json_format

    if json is not None:
        check_place(json)
    if pictures is not None:
        try:
            pictures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{pictures}: cannot be made a folder: {error.strerror}") from error
    from ancestral_exporter.served.evaluation import Amounts, evaluate_bundle
    from ancestral_exporter.served.pictures import write_pictures
    from ancestral_exporter.served.tables import print_evaluation

    found, served, seen = evaluate_bundle(
        bundle,
        data,
        Amounts(images, samples, draws, tuple(dict.fromkeys(labels)) if labels else None),
        lambda what: typer.echo(shown(what), err=True),
        "validation" if part is Part.VALIDATION else "test",
    )
    print_evaluation(found, console())
    if json is not None:
        write_whole(json, json_format.dumps(found.document(), indent=2, ensure_ascii=False) + "\n")
    for path in write_pictures(found, served, seen, pictures) if pictures is not None else ():
        typer.echo(shown(f"wrote {path}"))


@app.command(short_help="A page of what trained bundles reach, beside published figures.")
def results(
    folders: Annotated[
        list[Path], typer.Argument(help="Bundles, or folders of models: of a model the latest version.")
    ],
    out: Annotated[Path | None, typer.Option(help="The page, RESULTS.md say; by default it is printed.")] = None,
    evaluated: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A folder with what `evaluate` found out: DIR/MODEL/evaluation.json, and its pictures beside it.",
        ),
    ] = None,
) -> None:
    """Write a page of Markdown from bundles: test figures, published ones, parameters, training time, samples.

    Nothing is measured anew: the figures are those of the manifests, and of evaluations where they are named.
    """
    from ancestral_exporter.results import find_results, results_page

    if out is not None:
        check_place(out)
    found = find_results(folders, evaluated)
    page = results_page(found, Path.cwd() if out is None else out.parent)
    if out is None:
        typer.echo(page, nl=False)
    else:
        write_whole(out, page)
        typer.echo(shown(f"wrote {out}, {len(found)} bundles"))


@app.command()
def recipes() -> None:
    """List what can be trained."""
    from ancestral_exporter.data import SOURCES
    from ancestral_exporter.recipes import shipped

    # The name is there to be copied: where the terminal is narrow, let the description wrap.
    table = Table(Column("recipe", no_wrap=True), "what it is", "data", "epochs")
    for entry in shipped():
        where = "--data PATH" if SOURCES[entry.source].needs_path else "included"
        table.add_row(entry.name, entry.description, f"{entry.source} ({where})", str(entry.epochs))
    console().print(table)


@app.command(name="new-recipe")
def new_recipe(
    file: Annotated[Path, typer.Argument(help="The recipe to write, such as shells.toml; the model is called so.")],
    data: Annotated[Path, typer.Option(help="Your images: a folder of pictures, .npz, .npy, .parquet or idx files.")],
    family: Annotated[
        str,
        typer.Option(
            help="pixelcnn: likelihood, samples, completion; vae: encodings, samples; autoencoder: encodings, fastest; "
            "gan: samples; classifier: classes, of subfolders or labels."
        ),
    ] = "pixelcnn",
    pretrained: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="A classifier begins from the encoder of this autoencoder or VAE, MODELS/NAME/VERSION.",
        ),
    ] = None,
) -> None:
    """Look at your images and write a commented recipe for them."""
    from ancestral_exporter.recipes import new

    new.check_file(file)
    written = new.write(family, data, pretrained)
    write_whole(file, written.text)
    for line in written.left_out:
        typer.echo(shown(f"left out {line}"))
    typer.echo(shown(written.description))
    command = shlex.join(["ancestral-exporter", "train", str(file), "--data", str(data), "--models", "models"])
    typer.echo(shown(f"wrote {file}; train it with: {command}"))


def result_table(recipe: Recipe, made: Made) -> Table:
    """Test figures of the bundle beside the recipe's references."""
    from ancestral_exporter.card import likelihood_word

    test = made.evaluations[-1]
    if not test.has_likelihood:
        table = Table("", test.figure.unit)
        name = Text.assemble(
            (recipe.name, "bold"), f", {test.images} test images, {test.figure.name.replace('_', ' ')}"
        )
        table.add_row(name, f"{test.terms[test.figure.name]:.4f}")
        return table
    if not test.discrete:
        table = Table("", "nats/image")
        name = Text.assemble((recipe.name, "bold"), ", test, density (no bits/dim to compare)")
        table.add_row(name, f"{test.nats:.2f}")
        return table
    table = Table("", "bits/dim", "nats/image")
    for reference in recipe.references:
        nats = reference.bits_per_dim * test.nats / test.bits_per_dim
        table.add_row(reference.text, f"{reference.bits_per_dim:.4g}", f"{nats:.1f}")
    about = f", {test.images} test images, {likelihood_word(test.likelihood)}"
    bits = Text(f"{test.bits_per_dim:.4f}", "bold")
    table.add_row(Text.assemble((recipe.name, "bold"), about), bits, f"{test.nats:.2f}")
    return table


def main() -> None:
    """Entry point: exit code 0, 1 for an error (one line on stderr), 2 for wrong usage, 130 for Ctrl-C."""
    with complaining("ancestral-exporter"):
        app()


def _given(context: typer.Context, name: str) -> bool:
    """Whether a parameter was typed, and is not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
