"""The commands that read images: their encodings, features, classes and likelihoods."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ancestral.text import shown
from ancestral_client import _inputs as inputs
from ancestral_client import _outputs as outputs
from ancestral_client import _reaching as reaching
from ancestral_client._options import (
    TIMEOUT,
    Address,
    AsJson,
    BulkPriority,
    Format,
    ImageFiles,
    Labels,
    ModelName,
    OnError,
    Priority,
    Resize,
    Scale,
    Timeout,
    Version,
)
from ancestral_client.targets import ARRAYS, FULL, target


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
    resize: Resize = None,
    scale: Scale = None,
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
    with reaching.client(context, address, timeout, bulk_priority=priority) as client:
        read = inputs.images(client, model, version, images, "encode", on_error=on_error, resize=resize, scale=scale)
        parts = client.encode_stream(model, read.array, draw_seed=draw_seed, version=version)
        posterior = outputs.joined(parts, len(read.array))
    count, size = posterior.mean.shape
    arrays = {"mean": posterior.mean, "log_variance": posterior.log_variance, "latent": posterior.latent}
    written.write(arrays, names=read.names)
    outputs.done(written, f"{count} × {size} latents", posterior.info, as_json, **read.facts, latents=size)


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
    resize: Resize = None,
    scale: Scale = None,
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
    with reaching.client(context, address, timeout, priority) as client, inputs.wanting_labels(labels):
        read = inputs.images(client, model, version, images, "features", on_error=on_error, resize=resize, scale=scale)
        classes = inputs.labels(labels, read)
        hidden = client.features(
            model, read.array, include_map=include_map, labels=classes, progress=True, version=version
        )
    count, size = hidden.features.shape
    written.write({"features": hidden.features, "feature_map": hidden.feature_map}, names=read.names)
    outputs.done(written, f"{count} × {size} features", hidden.info, as_json, **read.facts, features=size)


def classify(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: Annotated[
        Path | None, typer.Option(help="Also write logits, probabilities and labels to this .npz or .parquet.")
    ] = None,
    on_error: OnError = "fail",
    resize: Resize = None,
    scale: Scale = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Tell which class images are of."""
    written = None if out is None else target(out, FULL)
    with reaching.client(context, address, timeout, priority) as client:
        read = inputs.images(client, model, version, images, "classify", on_error=on_error, resize=resize, scale=scale)
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
    resize: Resize = None,
    scale: Scale = None,
    priority: BulkPriority = "batch",
    version: Version = 0,
    as_json: AsJson = False,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Print how likely a model finds images."""
    written = None if out is None else target(out, FULL)
    with (
        reaching.client(context, address, timeout, bulk_priority=priority) as client,
        inputs.wanting_labels(labels),
    ):
        read = inputs.images(client, model, version, images, "score", on_error=on_error, resize=resize, scale=scale)
        classes = inputs.labels(labels, read)
        parts = client.score_stream(model, read.array, draws=draws, seed=seed, labels=classes, version=version)
        scores = outputs.joined(parts, len(read.array))
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
    outputs.about(scores.info)


def _of_draws(draws: int) -> str:
    return f" of {draws} draws" if draws > 1 else ""
