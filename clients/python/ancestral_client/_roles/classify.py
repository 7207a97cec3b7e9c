"""Classify: images to the classes that they are of.

Shapes: N images of a call, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _wire
from ancestral_client._calls import Calls, Images
from ancestral_client._progress import Progress
from ancestral_client._rpcs import Rpc
from ancestral_client.bulk import Role
from ancestral_client.results import Classes

_CLASSIFY: Rpc[pb.ClassifyRequest, pb.ClassifyResponse] = Rpc("inference", "Classify", hedged=True)


async def classify(
    calls: Calls,
    model: str,
    images: Images,
    *,
    scale: float | None = None,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Classes:
    """Which class each image is of: logits and probabilities [N,K], and the most probable label [N].

    `scale`, `progress`, and more images than one call takes, as in `encode`. RoleNotSupported where the model does not
    classify.
    """

    def request(batch: NDArray[np.uint8], first: int) -> pb.ClassifyRequest:
        return pb.ClassifyRequest(**calls.requests.head(model, version), images=calls.requests.tensor("images", batch))

    role = Role("classify", _CLASSIFY, request, _result)
    return await calls.whole(role, calls.fit(model, scale, version, timeout), images, timeout, progress)


def _result(reply: pb.ClassifyResponse) -> Classes:
    return Classes(
        logits=_wire.unpack(reply.logits),
        probabilities=_wire.unpack(reply.probabilities),
        labels=np.array(reply.labels, np.int64),
        class_names=tuple(reply.class_names),
        info=_wire.info(reply.info),
    )
