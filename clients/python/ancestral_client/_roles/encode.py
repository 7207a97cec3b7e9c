"""Encode, and its stream: images to the posterior q(z|x).

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _arguments, _wire
from ancestral_client._calls import Calls, Images
from ancestral_client._progress import Progress
from ancestral_client._requests import Requests
from ancestral_client._rpcs import Rpc
from ancestral_client.bulk import MESSAGE_SIZE, BulkAnswers, StreamedRole
from ancestral_client.results import Encoding

_ENCODE: Rpc[pb.EncodeRequest, pb.EncodeResponse] = Rpc("inference", "Encode", hedged=True)
_ENCODE_STREAM: Rpc[pb.EncodeStreamRequest, pb.EncodeStreamResponse] = Rpc("inference", "EncodeStream")


async def encode(
    calls: Calls,
    model: str,
    images: Images,
    *,
    draw_seed: int | None = None,
    first_index: int = 0,
    scale: float | None = None,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Encoding:
    """Mean and log-variance of q(z|x) for each image, [N,Z]; with `draw_seed` also one draw of z each.

    The draws are those at `first_index` to `first_index + N - 1` of the seed's sequence. Images are uint8, 0 to
    255; with `scale` any real numbers, which times that are these levels: `scale=255` for images in [0,1].
    RoleNotSupported where the model has no encoder.

    More images than one call takes, or an iterator of arrays, are sent as `encode_stream` does, in order and in
    bounded memory; `timeout` is then that of each answer.

    `progress` shows a bar on stderr, in a terminal or a notebook; or it is a function, called with how many images
    are done and of how many, None where that is not known. Images are then sent in messages as those of a stream.
    """
    role = _encoding(calls.requests, model, draw_seed, first_index, version)
    return await calls.whole(role, calls.fit(model, scale, version, timeout), images, timeout, progress)


def encode_stream(
    calls: Calls,
    model: str,
    images: Images,
    *,
    message_size: int = MESSAGE_SIZE,
    draw_seed: int | None = None,
    scale: float | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> BulkAnswers[Encoding]:
    """`encode` of any number of images in one call, as fast as the model goes, in bounded memory.

    `images` is an array, which is sent in messages of `message_size` images (one may be a memory map of a file), or
    any iterable of arrays, each a message. There is one Encoding for each message, in order, and together they are
    what one `encode` would give. `timeout` is how long to wait for an answer, not for all. See `BulkStream` for
    what becomes of errors. Of an AsyncClient it is an `async for`:

    >>> for part in client.encode_stream("digits-vae", images):  # doctest: +SKIP
    ...     part.mean  # [64,Z], of the last one perhaps fewer
    """
    role = _encoding(calls.bulk_requests, model, draw_seed, 0, version)
    return calls.bulk(role, calls.fit(model, scale, version, timeout), images, message_size, timeout)


def _encoding(
    requests: Requests, model: str, draw_seed: int | None, first_index: int, version: int
) -> StreamedRole[Encoding]:
    # Here, so that what is wrong with it is told of the call and not of each message.
    draw_seed = None if draw_seed is None else _arguments.seed_of("draw_seed", draw_seed)
    begin = _arguments.first_index_of(first_index)

    def request(batch: NDArray[np.uint8], first: int) -> pb.EncodeRequest:
        return pb.EncodeRequest(
            **requests.head(model, version),
            images=requests.tensor("images", batch),
            draw_seed=draw_seed,
            first_index=_arguments.first_index_of(begin + first),
        )

    return StreamedRole("encode", _ENCODE, request, _result, _ENCODE_STREAM, pb.EncodeStreamRequest)


def _result(reply: pb.EncodeResponse) -> Encoding:
    return Encoding(
        mean=_wire.unpack(reply.mean),
        log_variance=_wire.unpack(reply.log_variance) if reply.HasField("log_variance") else None,
        latent=_wire.unpack(reply.latent) if reply.HasField("latent") else None,
        info=_wire.info(reply.info),
    )
