"""The commands that draw images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ancestral_client import _inputs as inputs
from ancestral_client import _outputs as outputs
from ancestral_client import _reaching as reaching
from ancestral_client import pictures
from ancestral_client._options import (
    ONE_IMAGE,
    TIMEOUT,
    Address,
    AsJson,
    Format,
    ImagesOut,
    Label,
    ModelName,
    Priority,
    Resize,
    Scale,
    Seed,
    Temperature,
    Timeout,
    Version,
)
from ancestral_client._progress import told
from ancestral_client.client import Client
from ancestral_client.fitting import Fit
from ancestral_client.results import SampledImage, Samples
from ancestral_client.targets import IMAGES, target


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
    with reaching.client(context, address, timeout, priority) as client:
        if progress:
            drawn = _sample_with_bar(client, model, n, version=version, **asked)
        else:
            drawn = client.sample(model, n, version=version, **asked)
    outputs.write_samples(written, drawn, as_json=as_json)


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


def complete(
    context: typer.Context,
    model: ModelName,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help=f"The image: {ONE_IMAGE}.")],
    mask: Annotated[Path, typer.Option(help="White (in a .npy: True) keeps a pixel, black (False) draws it.")],
    out: ImagesOut,
    n: Annotated[int, typer.Option("-n", "--count", help="How many completions.")] = 8,
    resize: Resize = None,
    scale: Scale = None,
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
    with reaching.client(context, address, timeout, priority) as client:
        found = reaching.served(client, model, version)
        fit = Fit(model, found.image_shape, resize, scale)
        given, known = inputs.image(image, fit), inputs.mask(mask, fit)
        drawn = client.sample(
            model, n, seed=seed, temperature=temperature, label=label, given=given, known=known, version=version
        )
    kept = np.where(known, given, np.uint8(pictures.GREY))
    outputs.write_samples(written, drawn, first=kept, as_json=as_json)
