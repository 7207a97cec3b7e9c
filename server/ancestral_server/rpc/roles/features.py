"""ExtractFeatures: images to a hidden layer of the model.

Letters: N images, F features.
"""

from __future__ import annotations

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import OneShotJob
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work, labels_of
from ancestral_server.runtime.program import Needs, OneShotProgram

IMAGE = bundle_pb2.MEANING_IMAGE
FEATURES = bundle_pb2.MEANING_FEATURES
FEATURE_MAP = bundle_pb2.MEANING_FEATURE_MAP


class Features(ServiceRole[pb.ExtractFeaturesRequest, pb.ExtractFeaturesResponse]):
    NAME = "features"
    METHOD = "ExtractFeatures"
    NEEDS = Needs(inputs=(IMAGE,), outputs=(FEATURES,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, endpoint)
        self._images = convert.BatchCheck.of(program.inputs[IMAGE], served.limit("max_images"))

    def read(self, request: pb.ExtractFeaturesRequest, prefix: str) -> Work:
        images = self._images.array(f"{prefix}images", request.images)
        wanted = [FEATURES]
        if request.include_map:
            if FEATURE_MAP not in self.program.outputs:
                field, name = f"{prefix}include_map", self.served.name
                raise RoleMissing(name, f"{field}: {name} has no feature map", field)
            wanted.append(FEATURE_MAP)
        labels = labels_of(self.program, f"{prefix}labels", request.labels, len(images))
        convert.reply_size(f"{prefix}images", len(images), self.row_bytes(*wanted), self.room)
        return Work(len(images), {IMAGE: images, **labels}, wanted)

    def fill(self, reply: pb.ExtractFeaturesResponse, job: OneShotJob) -> None:
        convert.fill(reply.features, job.output(FEATURES))
        if FEATURE_MAP in job.pieces:
            convert.fill(reply.feature_map, job.output(FEATURE_MAP))
