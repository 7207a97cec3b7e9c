"""ExtractFeatures: images to a hidden layer of a model.

Shapes: N images of a call, F features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import inference_service_pb2 as pb
from ancestral_client import _arguments, _arrays, _wire
from ancestral_client._calls import Calls, Images
from ancestral_client._progress import Progress
from ancestral_client._requests import of_part
from ancestral_client._rpcs import Rpc
from ancestral_client.bulk import Role
from ancestral_client.results import Features

_FEATURES: Rpc[pb.ExtractFeaturesRequest, pb.ExtractFeaturesResponse] = Rpc("inference", "ExtractFeatures", hedged=True)


async def features(
    calls: Calls,
    model: str,
    images: Images,
    *,
    include_map: bool = False,
    labels: ArrayLike | None = None,
    scale: float | None = None,
    progress: Progress = False,
    version: int = 0,
    timeout: float | None = None,
) -> Features:
    """A hidden layer for each image, [N,F]; with `include_map` also the whole map [N,H',W',F'].

    `labels` are the images' classes, [N] or one for all. `scale`, `progress`, and more images than one call takes,
    as in `encode`. RoleNotSupported where the model shows no layer.
    """
    classes = _arrays.labels_of(labels)
    include_map = _arguments.flag_of("include_map", include_map)

    def request(batch: NDArray[np.uint8], first: int) -> pb.ExtractFeaturesRequest:
        return pb.ExtractFeaturesRequest(
            **calls.requests.head(model, version),
            images=calls.requests.tensor("images", batch),
            include_map=include_map,
            labels=of_part(classes, first, len(batch)),
        )

    role = Role("features", _FEATURES, request, _result)
    return await calls.whole(role, calls.fit(model, scale, version, timeout), images, timeout, progress)


def _result(reply: pb.ExtractFeaturesResponse) -> Features:
    return Features(
        features=_wire.unpack(reply.features),
        feature_map=_wire.unpack(reply.feature_map) if reply.HasField("feature_map") else None,
        info=_wire.info(reply.info),
    )
