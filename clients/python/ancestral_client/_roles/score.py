"""Score, and its stream: images to their log-likelihood, or a lower bound of it.

Shapes: N images of a call.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _arguments, _arrays, _wire
from ancestral_client._calls import Calls, Images
from ancestral_client._progress import Progress
from ancestral_client._requests import Requests, of_part
from ancestral_client._rpcs import Rpc
from ancestral_client.bulk import BulkAnswers, StreamedRole, size_of_messages
from ancestral_client.errors import Unimplemented
from ancestral_client.results import Scores

_SCORE: Rpc[pb.ScoreRequest, pb.ScoreResponse] = Rpc("inference", "Score", hedged=True)
_SCORE_STREAM: Rpc[pb.ScoreStreamRequest, pb.ScoreStreamResponse] = Rpc("inference", "ScoreStream")


async def score(
    calls: Calls,
    model: str,
    images: Images,
    *,
    draws: int = 1,
    seed: int = 0,
    first_index: int = 0,
    labels: ArrayLike | None = None,
    scale: float | None = None,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Scores:
    """Log-likelihood in nats and bits per dimension of each image, [N].

    `labels` are the images' classes, [N] or one for all: a likelihood is that of the image given its class. Where
    the model gives only a lower bound, that needs draws of z: `seed` fixes them, from its `first_index` on, and
    `draws` says how many each bound is made of. The mean of bounds of one draw is the ELBO; those of more are
    importance-weighted, and rise towards the likelihood (Burda et al. 2016). An exact likelihood needs none.

    `scale`, `progress`, and more images than one call takes, as in `encode`. RoleNotSupported where the model has no
    likelihood.
    """
    role = _scoring(calls.requests, model, draws, seed, first_index, labels, version)
    return await calls.whole(role, calls.fit(model, scale, version, timeout), images, timeout, progress)


def score_stream(
    calls: Calls,
    model: str,
    images: Images,
    *,
    message_size: int | None = None,
    draws: int = 1,
    seed: int = 0,
    labels: ArrayLike | None = None,
    scale: float | None = None,
    version: int = 0,
    timeout: float | None = None,
) -> BulkAnswers[Scores]:
    """`score` of any number of images in one call; errors as of `encode_stream`. `labels`: one for all, or [N].

    Unless `message_size` says otherwise a message holds 64 images, or fewer that together have as many draws.
    """
    role = _scoring(calls.bulk_requests, model, draws, seed, 0, labels, version)
    size = role.message_size if message_size is None else message_size
    return calls.bulk(role, calls.fit(model, scale, version, timeout), images, size, timeout)


def _scoring(
    requests: Requests,
    model: str,
    draws: int,
    seed: int,
    first_index: int,
    labels: ArrayLike | None,
    version: int,
) -> StreamedRole[Scores]:
    draws = _arguments.count_of("draws", draws)
    classes, seed = _arrays.labels_of(labels), _arguments.seed_of("seed", seed)
    begin = _arguments.first_index_of(first_index)

    def request(batch: NDArray[np.uint8], first: int) -> pb.ScoreRequest:
        return pb.ScoreRequest(
            **requests.head(model, version),
            images=requests.tensor("images", batch),
            seed=seed,
            labels=of_part(classes, first, len(batch)),
            first_index=_arguments.first_index_of(begin + first),
            draws=draws,
        )

    return StreamedRole(
        "score",
        _SCORE,
        request,
        partial(_result, draws=draws),
        _SCORE_STREAM,
        pb.ScoreStreamRequest,
        message_size=size_of_messages(draws),
    )


def _result(reply: pb.ScoreResponse, draws: int) -> Scores:
    """Of a call for so many draws; Unimplemented where the server has not heard of draws."""
    if draws > 1 and reply.draws != draws:
        raise Unimplemented(f"draws: is {draws}; this server is an older one, whose bounds are of one draw")
    return Scores(
        log_likelihood=_wire.unpack(reply.log_likelihood),
        bits_per_dim=_wire.unpack(reply.bits_per_dim),
        exact=reply.likelihood == bundle_pb2.LIKELIHOOD_EXACT,
        draws=reply.draws,
        info=_wire.info(reply.info),
    )
