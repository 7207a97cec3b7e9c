"""The command `ancestral`: every call of the client, with files in and out.

Exit codes: 0 done; 1 the server's fault; 2 a wrong argument, file or bundle; 3 no such model; 4 the model cannot do
that; 5 the server is overloaded; 6 no answer in time; 7 nothing answers there, or the model does not serve now; 8 not
allowed; 130 interrupted.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from ancestral.text import shown
from ancestral_client import _commands as commands
from ancestral_client import _latents as latents
from ancestral_client import _manage as manage
from ancestral_client import _studio as studio
from ancestral_client import errors, pictures
from ancestral_client._commands import (
    TIMEOUT,
    VARIABLE,
    Address,
    AsJson,
    BulkPriority,
    Format,
    ImageFiles,
    ImagesOut,
    Label,
    Labels,
    ModelName,
    OnError,
    Priority,
    Seed,
    Temperature,
    Timeout,
    Version,
)
from ancestral_client._progress import told
from ancestral_client.bench import bench
from ancestral_client.bulk_jobs.command import bulk
from ancestral_client.client import Client
from ancestral_client.doctor import doctor
from ancestral_client.replacing import FileProblem, reason
from ancestral_client.results import SampledImage, Samples
from ancestral_client.targets import ARRAYS, FULL, IMAGES, target

_EXIT_CODES: dict[type[Exception], int] = {
    FileProblem: 2,
    errors.InvalidArgument: 2,
    errors.MessageTooLarge: 2,
    errors.BundleRefused: 2,
    errors.NotFound: 3,
    errors.Unimplemented: 4,
    errors.Overloaded: 5,
    errors.DeadlineExceeded: 6,
    errors.Unavailable: 7,
    errors.Unauthenticated: 8,
    errors.PermissionDenied: 8,
}

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _App(typer.Typer):
    """Whose commands, and what stands before them, take the options by which a server is reached."""

    def command(self, *arguments: Any, **options: Any) -> Callable[[_Command], _Command]:
        return _with_connection(super().command(*arguments, **options))

    def callback(self, *arguments: Any, **options: Any) -> Callable[[_Command], _Command]:
        return _with_connection(super().callback(*arguments, **options))


def _with_connection(register: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Registers what takes these options too, and leaves what it was made of as it is."""

    def decorator(command: _Command) -> _Command:
        register(commands.connecting(command))
        return command

    return decorator


app = _App(
    help="Ask an Ancestral server for samples, encodings, features and likelihoods of images.",
    epilog="Exit codes: 0 done, 1 the server's fault, 2 a wrong argument, file or bundle, 3 no such model, 4 the model "
    "cannot do that, 5 overloaded, 6 no answer in time, 7 nothing answers there, or the model does not serve now, 8 "
    "not allowed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain: in its panels typer says of each flag that it takes a <bool>.
    rich_markup_mode=None,
)


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar=VARIABLE, help="Where the server listens.")
    ] = "localhost:8500",
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=commands.tell_version, help="Print the version.")
    ] = False,
    otlp: Annotated[
        str,
        typer.Option(metavar="URL", envvar=list(commands.COLLECTORS), help="Trace the command: where a collector is."),
    ] = "",
) -> None:
    # --address may stand before the command or after it; after it wins. What is wrong with it names where it stands.
    source = context.get_parameter_source("address")
    given_by_variable = source is not None and source.name == "ENVIRONMENT"
    context.obj = (VARIABLE if given_by_variable else "--address", address)
    commands.warn_of_near_variables(os.environ)
    if otlp:
        commands.trace(context, otlp)


app.command()(manage.models)
app.command(short_help="Load a version from its folder, or load it anew.")(manage.load)
app.command(short_help="Take a version, or all, out of service.")(manage.unload)
app.command(short_help="Send a whole data set through a model, Parquet to Parquet.")(bulk)
app.command(short_help="Serve a page, for a browser, that shows what the models do.")(studio.studio)
app.command(short_help="Find out what keeps this machine from a server.")(doctor)
app.command(short_help="Measure how fast a server answers.")(bench)


@app.command()
def sample(
    context: typer.Context,
    model: ModelName,
    out: ImagesOut,
    n: Annotated[int, typer.Option("-n", "--count", help="How many images.")] = 16,
    seed: Seed = None,
    first_index: Annotated[int, typer.Option(help="Index of the first image in the seed's sequence.")] = 0,
    temperature: Temperature = None,
    label: Label = None,
    progress: Annotated[bool, typer.Option("--progress", help="Show a bar that grows as images arrive.")] = False,
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Draw images from a model; .npz and .parquet also hold their log-likelihoods."""
    written = target(out, IMAGES, form, as_json=as_json)
    asked: dict[str, Any] = {"seed": seed, "first_index": first_index, "temperature": temperature, "label": label}
    with commands.client(context, address, timeout, priority) as client:
        if progress:
            drawn = _sample_with_bar(client, model, n, version=version, **asked)
        else:
            drawn = client.sample(model, n, version=version, **asked)
    commands.write_samples(written, drawn, as_json=as_json)


def _sample_with_bar(client: Client, model: str, n: int, **asked: Any) -> Samples:
    """The result of `Client.sample`, by way of `Client.sample_stream`."""
    finished: dict[int, SampledImage] = {}
    with client.sample_stream(model, n, **asked) as events, told(progress=True) as tell:
        for event in events:
            if isinstance(event, SampledImage):
                finished[event.index] = event
                tell(len(finished), n)
    ordered = [finished[index] for index in sorted(finished)]
    likelihoods = [image.log_likelihood for image in ordered if image.log_likelihood is not None]
    return Samples(
        images=np.stack([image.image for image in ordered]),
        log_likelihood=np.array(likelihoods, np.float32) if likelihoods else None,
        seed=ordered[0].seed,
        first_index=ordered[0].index,
        info=max((image.info for image in ordered), key=lambda info: info.total_seconds),
    )


@app.command()
def complete(
    context: typer.Context,
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help=f"The image: {commands.ONE_IMAGE}.")],
    mask: Annotated[Path, typer.Option(help="White (in a .npy: True) keeps a pixel, black (False) draws it.")],
    out: ImagesOut,
    n: Annotated[int, typer.Option("-n", "--count", help="How many completions.")] = 8,
    seed: Seed = None,
    temperature: Temperature = None,
    label: Label = None,
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Fill in the missing pixels of an image: black in the mask. Those that are white come back unchanged.

    Pixels are drawn from the top, row by row, from the left: each is conditioned on those before it, kept or drawn. In
    a picture grid the image stands first.
    """
    written = target(out, IMAGES, form, as_json=as_json)
    with commands.client(context, address, timeout, priority) as client:
        found = commands.served(client, model, version)
        given, known = commands.image(image, found.image_shape), commands.mask(mask, found.image_shape)
        drawn = client.sample(
            model, n, seed=seed, temperature=temperature, label=label, given=given, known=known, version=version
        )
    kept = np.where(known, given, np.uint8(pictures.GREY))
    commands.write_samples(written, drawn, first=kept, as_json=as_json)


@app.command()
def encode(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: Annotated[
        Path, typer.Option(help=".npz or .parquet (mean, log_variance, latent), .npy (mean), or - for stdout.")
    ],
    draw_seed: Annotated[
        int | None, typer.Option(help="Also draw one z per image, with this seed; needs --out .npz or .parquet.")
    ] = None,
    on_error: OnError = "fail",
    form: Format = None,
    as_json: AsJson = False,
    priority: BulkPriority = "batch",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Map images to the mean and log-variance of q(z|x)."""
    written = target(out, ARRAYS, form, as_json=as_json)
    written.needs("--draw-seed", draw_seed is not None)
    with commands.client(context, address, timeout, bulk_priority=priority) as client:
        read = commands.images(client, model, version, images, on_error)
        parts = client.encode_stream(model, read.array, draw_seed=draw_seed, version=version)
        posterior = commands.joined(parts, len(read.array))
    count, size = posterior.mean.shape
    arrays = {"mean": posterior.mean, "log_variance": posterior.log_variance, "latent": posterior.latent}
    written.write(arrays, names=read.names)
    commands.done(written, f"{count} × {size} latents", posterior.info, as_json, **read.facts, latents=size)


@app.command()
def decode(
    context: typer.Context,
    model: ModelName,
    latents: Annotated[
        Path,
        typer.Argument(
            metavar="LATENTS", help=".npy [N,Z], .npz as `encode` writes it (latent, else mean), or - for stdin."
        ),
    ],
    out: ImagesOut,
    include_variance: Annotated[
        bool, typer.Option("--variance", help="Also mean and variance of each pixel, in bytes; needs --out .npz.")
    ] = False,
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Map latents to images."""
    written = target(out, IMAGES, form, as_json=as_json)
    written.needs("--variance", include_variance)
    array = commands.array(latents, ("latent", "latents", "mean"))
    with commands.client(context, address, timeout, priority) as client:
        decoded = client.decode(model, array, include_variance=include_variance, progress=True, version=version)
    commands.write_decoded(written, decoded, as_json=as_json)


app.command()(latents.reconstruct)
app.command()(latents.interpolate)
app.command()(latents.traverse)
app.command()(latents.manifold)


@app.command()
def features(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: Annotated[
        Path, typer.Option(help=".npz or .parquet (features, feature_map), .npy (features), or - for stdout.")
    ],
    include_map: Annotated[
        bool, typer.Option("--map", help="Also the whole map, [N,H,W,F]; needs .npz or .parquet.")
    ] = False,
    labels: Labels = None,
    on_error: OnError = "fail",
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Map images to a hidden layer of a model."""
    written = target(out, ARRAYS, form, as_json=as_json)
    written.needs("--map", include_map)
    with commands.client(context, address, timeout, priority) as client, commands.wanting_labels(labels):
        read = commands.images(client, model, version, images, on_error)
        classes = commands.labels(labels, read)
        hidden = client.features(
            model, read.array, include_map=include_map, labels=classes, progress=True, version=version
        )
    count, size = hidden.features.shape
    written.write({"features": hidden.features, "feature_map": hidden.feature_map}, names=read.names)
    commands.done(written, f"{count} × {size} features", hidden.info, as_json, **read.facts, features=size)


@app.command()
def classify(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: Annotated[
        Path | None, typer.Option(help="Also write logits, probabilities and labels to this .npz or .parquet.")
    ] = None,
    on_error: OnError = "fail",
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Tell which class images are of."""
    written = None if out is None else target(out, FULL)
    with commands.client(context, address, timeout, priority) as client:
        read = commands.images(client, model, version, images, on_error)
        found = client.classify(model, read.array, progress=True, version=version)
    if written is not None:
        chances = {"logits": found.logits, "probabilities": found.probabilities}
        written.write({**chances, "labels": found.labels}, names=read.names)
    best, names = found.probabilities.max(axis=1), read.names
    if as_json:
        rows = zip(found.labels.tolist(), found.names, best.tolist(), strict=True)
        told = [{"label": label, "name": name, "probability": share} for label, name, share in rows]
        print(json.dumps([{"file": file, **row} for file, row in zip(names, told, strict=True)] if names else told))
        return
    for index, (name, share) in enumerate(zip(found.names, best, strict=True)):
        print(f"{shown(names[index])}\t{shown(name)}\t{share:.3f}" if names else f"{shown(name)}\t{share:.3f}")


@app.command()
def score(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: Annotated[
        Path | None, typer.Option(help="Also write log_likelihood and bits_per_dim to this .npz or .parquet.")
    ] = None,
    draws: Annotated[
        int,
        typer.Option(help="Draws of each bound: more come nearer to the likelihood, and take as many times longer."),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draws that a stochastic bound needs.")] = 0,
    labels: Labels = None,
    on_error: OnError = "fail",
    priority: BulkPriority = "batch",
    version: Version = 0,
    as_json: AsJson = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Print how likely a model finds images."""
    written = None if out is None else target(out, FULL)
    with (
        commands.client(context, address, timeout, bulk_priority=priority) as client,
        commands.wanting_labels(labels),
    ):
        read = commands.images(client, model, version, images, on_error)
        classes = commands.labels(labels, read)
        parts = client.score_stream(model, read.array, draws=draws, seed=seed, labels=classes, version=version)
        scores = commands.joined(parts, len(read.array))
    arrays = {"log_likelihood": scores.log_likelihood, "bits_per_dim": scores.bits_per_dim}
    if written is not None:
        written.write(arrays, names=read.names)
    if as_json:
        lists: dict[str, Any] = {name: array.tolist() for name, array in arrays.items()}
        about = {"exact": scores.exact, "draws": scores.draws, "info": asdict(scores.info)}
        print(json.dumps({**({"files": read.names} if read.names else {}), **lists, **about}))
        return
    bits, nats, count = scores.bits_per_dim, scores.log_likelihood, len(scores.bits_per_dim)
    kind = "exact" if scores.exact else f"bounds{_of_draws(scores.draws)}: at least these nats, at most these bits"
    error = f" ± {bits.std(ddof=1) / math.sqrt(count):.3f}" if count > 1 else ""
    print(f"{bits.mean():.3f}{error} bits/dim, {nats.mean():.2f} nats per image, {count} images ({kind})")
    commands.about(scores.info)


def _of_draws(draws: int) -> str:
    return f" of {draws} draws" if draws > 1 else ""


def main() -> None:
    """Runs a command; what fails is one line on stderr and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a letter that its encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="ancestral")
        finally:
            sys.stdout.flush()  # here, where a full disk can still be told
    except (errors.AncestralError, FileProblem) as error:
        print(f"ancestral: {commands.told(error)}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))
    except OSError as error:
        # Files of ours are FileProblems. What could not be written is thrown away, or Python would try it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read it has seen enough, as head
            sys.exit(1)
        print(f"ancestral: the output cannot be written: {reason(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
