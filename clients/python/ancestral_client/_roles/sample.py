"""Sample, and its stream: images drawn from a model, or completed.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable

from numpy.typing import ArrayLike

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _arguments, _wire
from ancestral_client._calls import Calls
from ancestral_client._requests import Requests
from ancestral_client._rpcs import Rpc
from ancestral_client.results import Samples
from ancestral_client.stream import SampleEvents

_SAMPLE: Rpc[pb.SampleRequest, pb.SampleResponse] = Rpc("inference", "Sample")


async def sample(
    calls: Calls,
    model: str,
    n: int,
    *,
    seed: int | None = None,
    first_index: int = 0,
    temperature: float | None = None,
    label: int | None = None,
    given: ArrayLike | None = None,
    known: ArrayLike | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> Samples:
    """Draws `n` images: those at `first_index` to `first_index + n - 1` of the seed's sequence.

    The same model, version, seed and index always give the same bytes, alone or in any batch. Without `seed` one is
    drawn, and comes back in the result. `temperature` 1 is the model itself, 0 asks for the most likely value of
    each pixel. `label` is the class to draw from.

    `given` and `known` complete images: where the bool mask `known` is True the pixels of `given` stay, the others
    are drawn. Each is one for all samples or [n,H,W,C]; the mask may lack the channels. A pixel is conditioned on
    what comes before it in raster order, so keep the top and draw the bottom rather than the other way round.

    RoleNotSupported where the model does not sample.
    """
    request = _request(
        calls.requests,
        model,
        n,
        seed=seed,
        first_index=first_index,
        temperature=temperature,
        label=label,
        version=version,
    )
    await _complete(calls, request, given, known, timeout)
    return _result(await calls.ask(_SAMPLE, request, calls.attempts(timeout)))


def sample_stream(
    calls: Calls,
    model: str,
    n: int,
    *,
    seed: int | None = None,
    first_index: int = 0,
    temperature: float | None = None,
    label: int | None = None,
    given: ArrayLike | None = None,
    known: ArrayLike | None = None,
    progress: bool = False,
    version: int = 0,
    timeout: float | None = None,
) -> SampleEvents:
    """The images of `sample` with the same arguments, each [H,W,C], as soon as it is finished, in that order.

    With `progress` also the rows of each image as they are painted, from models that paint row by row. `timeout`
    is that of the whole stream. To stop early, leave the loop, or better the `with` block of the stream (`async
    with` and `async for` of an AsyncClient's). Errors are those of `sample`, raised in the loop.

    >>> with client.sample_stream("digits-pixelcnn", 16, seed=7) as events:  # doctest: +SKIP
    ...     first = next(events)
    """
    sample = _request(
        calls.requests,
        model,
        n,
        seed=seed,
        first_index=first_index,
        temperature=temperature,
        label=label,
        version=version,
    )
    request = pb.SampleStreamRequest(sample=sample, progress=_arguments.flag_of("progress", progress))

    def fitted(sample: pb.SampleRequest) -> Awaitable[None]:
        return _complete(calls, sample, given, known, timeout)

    return SampleEvents(calls.transport, request, fitted, calls.attempts(timeout))


async def complete(
    calls: Calls,
    model: str,
    given: ArrayLike,
    known: ArrayLike,
    n: int | None = None,
    *,
    seed: int | None = None,
    first_index: int = 0,
    temperature: float | None = None,
    label: int | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> Samples:
    """Fills in the missing pixels of images: those of `given` where the bool mask `known` is False.

    `given` is one image, completed in `n` ways, or [N,H,W,C], each completed once. Otherwise as `sample`, errors
    among it.
    """
    name, number = _arguments.name_of("model", model), _arguments.version_of(version)
    given = await calls.batches.images("given", given, name, number, timeout)
    return await sample(
        calls,
        model,
        len(given) if n is None else n,
        seed=seed,
        first_index=first_index,
        temperature=temperature,
        label=label,
        given=given,
        known=known,
        version=version,
        timeout=timeout,
    )


def _request(
    requests: Requests,
    model: str,
    n: int,
    *,
    seed: int | None,
    first_index: int,
    temperature: float | None,
    label: int | None,
    version: int,
) -> pb.SampleRequest:
    """But for images to complete, which only the model's shape can fit."""
    return pb.SampleRequest(
        **requests.head(model, version),
        count=_arguments.count_of("count", n),
        # Drawn here and not by the server, so that a call that is tried again asks for the same images.
        seed=secrets.randbits(63) if seed is None else _arguments.seed_of("seed", seed),
        first_index=_arguments.first_index_of(first_index),
        temperature=None if temperature is None else _arguments.temperature_of(temperature),
        label=None if label is None else _arguments.label_of("label", label),
    )


async def _complete(
    calls: Calls, request: pb.SampleRequest, given: ArrayLike | None, known: ArrayLike | None, timeout: float | None
) -> None:
    """Adds the images to complete to a request."""
    model, version = request.model, request.version
    if given is not None:
        request.given.CopyFrom(_wire.pack(await calls.batches.images("given", given, model, version, timeout)))
    if known is not None:
        request.known.CopyFrom(_wire.pack(await calls.batches.mask("known", known, model, version, timeout)))


def _result(reply: pb.SampleResponse) -> Samples:
    return Samples(
        images=_wire.unpack(reply.images),
        log_likelihood=_wire.unpack(reply.log_likelihood) if reply.HasField("log_likelihood") else None,
        seed=reply.seed,
        first_index=reply.first_index,
        info=_wire.info(reply.info),
    )
