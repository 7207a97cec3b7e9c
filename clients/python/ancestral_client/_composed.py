"""Calls that are made of others: what a model makes of images by way of its latents, and ways through these.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

from typing import Literal

from numpy.typing import ArrayLike

from ancestral_client import _arguments, paths
from ancestral_client._calls import Calls
from ancestral_client._progress import Progress
from ancestral_client._roles.decode import decode
from ancestral_client._roles.encode import encode
from ancestral_client.errors import invalid
from ancestral_client.results import Decoding, Encoding


async def reconstruct(
    calls: Calls,
    model: str,
    images: ArrayLike,
    *,
    scale: float | None = None,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Decoding:
    """What a model makes of images by way of its latents: `decode` of the means of `encode`, [N,H,W,C].

    `timeout` is that of each of the two calls; `progress` tells of each image when it is decoded.
    RoleNotSupported where the model does not both encode and decode.
    """
    _arguments.progress_of(progress)
    posterior = await encode(calls, model, images, scale=scale, version=version, timeout=timeout)
    return await decode(
        calls, model, posterior.mean, progress=progress, version=posterior.info.version, timeout=timeout
    )


async def interpolate(
    calls: Calls,
    model: str,
    first: ArrayLike,
    last: ArrayLike,
    *,
    steps: int = 8,
    path: Literal["spherical", "linear"] = "spherical",
    scale: float | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> Decoding:
    """The way from one image to another, through their latents: `steps` images [steps,H,W,C], both ends included.

    The latents of a normal prior lie near a sphere; "spherical" stays at the ends' distance from 0, "linear" cuts
    through the inside. `timeout` is that of each of the three calls. Errors as of `reconstruct`.
    """
    steps, curve = _arguments.steps_of(steps), paths.curve(path)
    begin = await _one_latent(calls, "first", model, first, scale, version, timeout)
    end = await _one_latent(calls, "last", model, last, scale, begin.info.version, timeout)
    between = curve(begin.mean[0], end.mean[0], steps)
    return await decode(calls, model, between, version=begin.info.version, timeout=timeout)


async def traverse(
    calls: Calls,
    model: str,
    image: ArrayLike,
    dimension: int,
    *,
    steps: int = 8,
    span: float = 3.0,
    scale: float | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> Decoding:
    """What one latent dimension means for an image: [steps,H,W,C], with it going from -`span` to `span`.

    `dimension` is 0 to Z - 1; the others stay as `encode` has them. `span` is in standard deviations of the prior.
    Errors as of `reconstruct`.
    """
    steps, span = _arguments.steps_of(steps), _arguments.span_of(span)
    posterior = await _one_latent(calls, "image", model, image, scale, version, timeout)
    along = paths.along(posterior.mean[0], dimension, steps, span)
    return await decode(calls, model, along, version=posterior.info.version, timeout=timeout)


async def manifold(
    calls: Calls,
    model: str,
    *,
    steps: int = 16,
    dimensions: tuple[int, int] = (0, 1),
    version: int = 0,
    timeout: float | None = None,
) -> Decoding:
    """The plane of two latent dimensions as images, [steps · steps,H,W,C], row by row: see `Decoding.grid`.

    Each row and each column is as likely as the others: the points are quantiles of the normal prior. The first
    dimension grows to the right, the second downwards; all others are 0.
    RoleNotSupported where the model does not decode.
    """
    steps = _arguments.steps_of(steps, most=100)  # of each row and each column
    found = await calls.model(_arguments.name_of("model", model), version, timeout=timeout)
    plane = paths.plane(found.latent_size, dimensions, steps)
    return await decode(calls, model, plane, version=found.version, timeout=timeout)


async def _one_latent(
    calls: Calls, field: str, model: str, image: ArrayLike, scale: float | None, version: int, timeout: float | None
) -> Encoding:
    """The encoding of one image; InvalidArgument, about `field`, if there are more."""
    name, number = _arguments.name_of("model", model), _arguments.version_of(version)
    batch = await calls.batches.images(field, image, name, number, timeout, scale)
    if len(batch) != 1:
        raise invalid(field, f"has {len(batch)} images; must be one")
    return await encode(calls, model, batch, version=version, timeout=timeout)
