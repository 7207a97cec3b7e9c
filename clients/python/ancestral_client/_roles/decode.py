"""Decode: latents to images.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _arguments, _arrays, _wire
from ancestral_client._calls import Calls
from ancestral_client._progress import Progress
from ancestral_client._rpcs import Rpc
from ancestral_client.bulk import MESSAGE_SIZE, Role
from ancestral_client.results import Decoding

_DECODE: Rpc[pb.DecodeRequest, pb.DecodeResponse] = Rpc("inference", "Decode", hedged=True)


async def decode(
    calls: Calls,
    model: str,
    latents: ArrayLike,
    *,
    include_variance: bool = False,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Decoding:
    """The image of each latent: `latents` is [N,Z] or one latent [Z], any real dtype, all finite.

    With `include_variance` also mean and variance of p(x|z), [N,H,W,C] float32, in units of bytes and of bytes
    squared; InvalidArgument where the model's decoder is no distribution. More latents than one call takes are
    decoded in several. `progress` as in `encode`.
    """
    variance = _arguments.flag_of("include_variance", include_variance)
    name, number = _arguments.name_of("model", model), _arguments.version_of(version)
    batch = _arrays.latent_batch(latents)

    def request(part: NDArray[np.float32], first: int) -> pb.DecodeRequest:
        return pb.DecodeRequest(
            **calls.requests.head(name, number),
            latents=calls.requests.tensor("latents", part),
            include_variance=variance,
        )

    role = Role("decode", _DECODE, request, _result)
    pixel_bytes = 9 if variance else 1  # a byte, and two floats
    _arguments.progress_of(progress)
    most = await _most_decoded(calls, name, number, batch, pixel_bytes, timeout)
    size = min(most, MESSAGE_SIZE) if progress else most
    return await calls.answered(role, batch, most, size, timeout, progress)


async def _most_decoded(
    calls: Calls, model: str, version: int, latents: NDArray[np.float32], pixel_bytes: int, timeout: float | None
) -> int:
    """How many latents one call takes, by their number and the size of their images."""
    if len(latents) <= MESSAGE_SIZE:
        return MESSAGE_SIZE
    found = await calls.model(model, version, timeout=timeout)
    if found.limits is None:
        return len(latents)
    image_bytes: int = max(math.prod(found.image_shape) * pixel_bytes, latents[0].nbytes)
    most_bytes = min(calls.most_bytes, found.limits.max_message_bytes) // 2  # leaves room for all but the images
    return max(1, min(found.limits.max_images, most_bytes // image_bytes))


def _result(reply: pb.DecodeResponse) -> Decoding:
    return Decoding(
        images=_wire.unpack(reply.images),
        mean=_wire.unpack(reply.mean) if reply.HasField("mean") else None,
        variance=_wire.unpack(reply.variance) if reply.HasField("variance") else None,
        info=_wire.info(reply.info),
    )
