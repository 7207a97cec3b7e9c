"""The command `ancestral`: every call of the client, with files in and out.

Exit codes: 0 done; 1 the server's fault; 2 a wrong argument or file; 3 no such model; 4 the model cannot do that;
5 the server is overloaded; 6 no answer in time; 7 nothing answers there; 130 interrupted.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ancestral_client import errors, files
from ancestral_client.client import Client
from ancestral_client.results import Info, Model

_EXIT_CODES: dict[type[Exception], int] = {
    files.FileProblem: 2,
    errors.InvalidArgument: 2,
    errors.MessageTooLarge: 2,
    errors.NotFound: 3,
    errors.Unimplemented: 4,
    errors.Overloaded: 5,
    errors.DeadlineExceeded: 6,
    errors.Unavailable: 7,
}

_TIMEOUT = 60.0

app = typer.Typer(
    help="Ask an Ancestral server for samples, encodings, features and likelihoods of images.",
    epilog="Exit codes: 0 done, 1 the server's fault, 2 a wrong argument or file, 3 no such model, 4 the model cannot "
    "do that, 5 overloaded, 6 no answer in time, 7 nothing answers there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model; `ancestral models` lists them.")]
ImageFile = Annotated[
    Path, typer.Argument(metavar="IMAGES", help="8-bit images: .npy or .npz ([N,H,W,C]; [N,H,W] for grey), or a PNG.")
]
Version = Annotated[int, typer.Option(help="Version of the model; 0 is the highest that is served.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


Address = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the server listens.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the answer; inf: for ever.")]


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", envvar="ANCESTRAL_ADDRESS", help="Where the server listens.")
    ] = "localhost:8500",
) -> None:
    # --address may stand before the command or after it; after it wins.
    context.obj = address


@app.command()
def models(
    context: typer.Context, as_json: AsJson = False, address: Address = None, timeout: Timeout = _TIMEOUT
) -> None:
    """List the models, what each can do and how good it is."""
    with _client(context, address, timeout) as client:
        found = client.models()
    if as_json:
        print(json.dumps([asdict(model) for model in found], indent=2))
        return
    if not found:
        print("The server has no models.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "VERSION", "IMAGES", "CAN", "TEST BITS/DIM", "STATE"):
        table.add_column(heading, justify="right" if heading == "VERSION" else "left")
    for model in found:
        state = f"serving on {model.device}" if model.serving else f"not serving: {model.reason}"
        size = "×".join(map(str, model.image_shape)) if any(model.image_shape) else "?"
        table.add_row(model.name, str(model.version), size, ", ".join(model.roles), _bits(model), state)
    # A pipe has no width to fit into: let every row be one line.
    console = Console() if sys.stdout.isatty() else Console(width=500)
    console.print(table, soft_wrap=not sys.stdout.isatty())


@app.command()
def sample(
    context: typer.Context,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Picture grid (.png), images (.npy) or both with likelihoods (.npz).")],
    n: Annotated[int, typer.Option("-n", "--count", help="How many images.")] = 16,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same images; drawn if not given.")] = None,
    first_index: Annotated[int, typer.Option(help="Index of the first image in the seed's sequence.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="0: the most likely values; 1, the default: the model itself.")
    ] = None,
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Draw images from a model."""
    files.check_target(out, ".png", ".npy", ".npz")
    with _client(context, address, timeout) as client:
        drawn = client.sample(model, n, seed=seed, first_index=first_index, temperature=temperature, version=version)
    likelihood = drawn.log_likelihood
    files.write_images(out, drawn.images, {"log_likelihood": likelihood, "seed": np.array(drawn.seed)})
    mean = "" if likelihood is None else f", mean log-likelihood {likelihood.mean():.1f} nats"
    _done(out, f"{len(drawn.images)} images, seed {drawn.seed}{mean}", drawn.info)


@app.command()
def encode(
    context: typer.Context,
    model: ModelName,
    images: ImageFile,
    out: Annotated[Path, typer.Option(help=".npz (mean, log_variance, latent) or .npy (mean).")],
    draw_seed: Annotated[int | None, typer.Option(help="Also draw one z per image, with this seed.")] = None,
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Map images to the mean and log-variance of q(z|x)."""
    files.check_target(out, ".npz", ".npy")
    with _client(context, address, timeout) as client:
        posterior = client.encode(model, _images(images), draw_seed=draw_seed, version=version)
    arrays = {"mean": posterior.mean, "log_variance": posterior.log_variance, "latent": posterior.latent}
    files.write_arrays(out, arrays)
    _done(out, f"{len(posterior.mean)} × {posterior.mean.shape[1]} latents", posterior.info)


@app.command()
def decode(
    context: typer.Context,
    model: ModelName,
    latents: Annotated[
        Path, typer.Argument(metavar="LATENTS", help=".npy [N,Z], or .npz as `encode` writes it (latent, else mean).")
    ],
    out: Annotated[Path, typer.Option(help="Picture grid (.png), or images (.npy, .npz).")],
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Map latents to images."""
    files.check_target(out, ".png", ".npy", ".npz")
    array = files.read_array(latents, ("latent", "latents", "mean"))
    with _client(context, address, timeout) as client:
        decoded = client.decode(model, array, version=version)
    files.write_images(out, decoded.images, {})
    _done(out, f"{len(decoded.images)} images", decoded.info)


@app.command()
def features(
    context: typer.Context,
    model: ModelName,
    images: ImageFile,
    out: Annotated[Path, typer.Option(help=".npz (features, feature_map) or .npy (features).")],
    include_map: Annotated[bool, typer.Option("--map", help="Also the whole map, [N,H,W,F].")] = False,
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Map images to a hidden layer of a model."""
    files.check_target(out, ".npz", ".npy")
    with _client(context, address, timeout) as client:
        hidden = client.features(model, _images(images), include_map=include_map, version=version)
    files.write_arrays(out, {"features": hidden.features, "feature_map": hidden.feature_map})
    _done(out, f"{len(hidden.features)} × {hidden.features.shape[1]} features", hidden.info)


@app.command()
def score(
    context: typer.Context,
    model: ModelName,
    images: ImageFile,
    out: Annotated[Path | None, typer.Option(help="Also write log_likelihood and bits_per_dim to this .npz.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws that a stochastic bound needs.")] = 0,
    version: Version = 0,
    as_json: AsJson = False,
    address: Address = None,
    timeout: Timeout = _TIMEOUT,
) -> None:
    """Print how likely a model finds images."""
    if out is not None:
        files.check_target(out, ".npz")
    with _client(context, address, timeout) as client:
        scores = client.score(model, _images(images), seed=seed, version=version)
    if out is not None:
        files.write_arrays(out, {"log_likelihood": scores.log_likelihood, "bits_per_dim": scores.bits_per_dim})
    if as_json:
        arrays = {name: getattr(scores, name).tolist() for name in ("log_likelihood", "bits_per_dim")}
        print(json.dumps({**arrays, "exact": scores.exact, "info": asdict(scores.info)}))
        return
    bits, nats, count = scores.bits_per_dim, scores.log_likelihood, len(scores.bits_per_dim)
    kind = "exact" if scores.exact else "bounds: at least these nats, at most these bits"
    error = f" ± {bits.std(ddof=1) / math.sqrt(count):.3f}" if count > 1 else ""
    print(f"{bits.mean():.3f}{error} bits/dim, {nats.mean():.2f} nats per image, {count} images ({kind})")
    _about(scores.info)


def main() -> None:
    """Runs a command; a failed call is one line on stderr and an exit code."""
    try:
        app()
    except (errors.AncestralError, files.FileProblem) as error:
        print(f"ancestral: {error}{_note(error)}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), 1))


def _client(context: typer.Context, address: str | None, timeout: float) -> Client:
    return Client(address or str(context.obj), timeout=timeout)


def _note(error: Exception) -> str:
    """What helps after the message: when to try again, and the id to look for in the server's log."""
    if not isinstance(error, errors.AncestralError) or not error.reason or not error.request_id:
        return ""  # it never reached a server of ours
    delay = error.retry_after if isinstance(error, errors.Overloaded) else None
    later = "" if delay is None else f"; try again in {delay:.1f} s"
    return f"{later} [request {error.request_id}]"


def _images(path: Path) -> NDArray[Any]:
    return files.read_array(path, ("images", "image", "x"))


def _bits(model: Model) -> str:
    """The model's bits/dim on the test images; ≤ marks a bound."""
    metric = next((m for m in model.metrics if m.unit == "bits/dim" and m.split == "test"), None)
    if metric is None:
        return ""
    return f"{'≤ ' if metric.exact is False else ''}{metric.value:.3f}"


def _done(out: Path, what: str, info: Info) -> None:
    print(f"wrote {out}: {what}")
    _about(info)


def _about(info: Info) -> None:
    """Where the time went, on stderr, so that stdout stays for results."""
    print(
        f"{info.model} version {info.version}: {info.total_seconds * 1000:.1f} ms in the server "
        f"(queue {info.queue_seconds * 1000:.1f}, compute {info.compute_seconds * 1000:.1f})",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
