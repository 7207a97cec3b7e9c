"""The commands that go by latents: their images, what a model makes of images, and ways between and around them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from ancestral_client import _inputs as inputs
from ancestral_client import _outputs as outputs
from ancestral_client import _reaching as reaching
from ancestral_client import errors
from ancestral_client._joining import joined
from ancestral_client._options import (
    ONE_IMAGE,
    TIMEOUT,
    Address,
    AsJson,
    Format,
    ImageFiles,
    ImagesOut,
    ModelName,
    OnError,
    Priority,
    Resize,
    Scale,
    Timeout,
    Version,
)
from ancestral_client.fitting import Fit
from ancestral_client.results import Decoding
from ancestral_client.targets import IMAGES, target

# Of a picture: an image beside its reconstruction, three such pairs in a row.
_PAIRS = 3

Steps = Annotated[int, typer.Option(help="How many images the way has, both ends included.")]


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
    array = inputs.array(latents, ("latent", "latents", "mean"))
    with reaching.client(context, address, timeout, priority) as client:
        decoded = client.decode(model, array, include_variance=include_variance, progress=True, version=version)
    outputs.write_decoded(written, decoded, as_json=as_json)


def reconstruct(
    context: typer.Context,
    model: ModelName,
    images: ImageFiles,
    out: ImagesOut,
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
    """Show what a model keeps of images: map them to their latents and back.

    In a picture grid each image stands left of its reconstruction; other files hold the reconstructions.
    """
    written = target(out, IMAGES, form, as_json=as_json)
    with reaching.client(context, address, timeout, priority) as client:
        read = inputs.images(
            client, model, version, images, "encode", "decode", on_error=on_error, resize=resize, scale=scale
        )
        rebuilt = client.reconstruct(model, read.array, progress=True, version=version)
    pairs = np.stack([read.array, rebuilt.images], axis=1).reshape(-1, *rebuilt.images.shape[1:])
    outputs.write_decoded(
        written, rebuilt, as_json=as_json, grid=pairs, columns=2 * min(_PAIRS, len(read.array)), names=read.names
    )


def interpolate(
    context: typer.Context,
    model: ModelName,
    first: Annotated[Path, typer.Argument(metavar="FIRST", help=f"Where the way begins: {ONE_IMAGE}.")],
    last: Annotated[Path, typer.Argument(metavar="LAST", help="Where it ends.")],
    out: ImagesOut,
    steps: Steps = 8,
    path: Annotated[
        Literal["spherical", "linear"],
        typer.Option(help="spherical keeps the distance from 0 that latents have; linear cuts through the inside."),
    ] = "spherical",
    resize: Resize = None,
    scale: Scale = None,
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Go from one image to another through the model's latents."""
    written = target(out, IMAGES, form, as_json=as_json)
    with reaching.client(context, address, timeout, priority) as client:
        fit = Fit(model, reaching.served(client, model, version).image_shape, resize, scale)
        begin, end = inputs.image(first, fit), inputs.image(last, fit)
        way = client.interpolate(model, begin, end, steps=steps, path=path, version=version)
    outputs.write_decoded(written, way, as_json=as_json, columns=steps)


def traverse(
    context: typer.Context,
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help=f"The image to start from: {ONE_IMAGE}.")],
    out: ImagesOut,
    dimension: Annotated[
        int | None,
        typer.Option(help="Which latent dimension, 0 to Z - 1; all of them, one after the other, if not given."),
    ] = None,
    steps: Steps = 8,
    span: Annotated[float, typer.Option(help="How far to go each way, in standard deviations of the prior.")] = 3.0,
    resize: Resize = None,
    scale: Scale = None,
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Show what a latent dimension means for an image: from low to high, while the others stay as they are.

    A picture grid has a row for each dimension.
    """
    written = target(out, IMAGES, form, as_json=as_json)
    with reaching.client(context, address, timeout, priority) as client:
        found = reaching.served(client, model, version)
        start = inputs.image(image, Fit(model, found.image_shape, resize, scale))
        if not found.latent_size:
            raise errors.RoleNotSupported(f"model {model} has no latents to go along; it has {', '.join(found.roles)}")
        dimensions = range(found.latent_size) if dimension is None else (dimension,)
        ways: list[Decoding] = [
            client.traverse(model, start, each, steps=steps, span=span, version=found.version) for each in dimensions
        ]
    outputs.write_decoded(written, joined(ways), as_json=as_json, columns=steps)


def manifold(
    context: typer.Context,
    model: ModelName,
    out: ImagesOut,
    steps: Annotated[int, typer.Option(help="Images in a row, and rows.")] = 16,
    dimensions: Annotated[
        tuple[int, int], typer.Option(metavar="ACROSS DOWN", help="Which two latent dimensions, 0 to Z - 1.")
    ] = (0, 1),
    form: Format = None,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Show the plane of two latent dimensions: quantiles of the prior, all others 0."""
    written = target(out, IMAGES, form, as_json=as_json)
    with reaching.client(context, address, timeout, priority) as client:
        plane = client.manifold(model, steps=steps, dimensions=dimensions, version=version)
    outputs.write_decoded(written, plane, as_json=as_json, columns=steps)
