"""Classify: images to the classes that they are of.

Letters: N images, K classes.
"""

from __future__ import annotations

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import OneShotJob
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work
from ancestral_server.runtime.program import Needs, OneShotProgram

IMAGE = bundle_pb2.MEANING_IMAGE
LOGITS = bundle_pb2.MEANING_LOGITS


class Classify(ServiceRole[pb.ClassifyRequest, pb.ClassifyResponse]):
    NAME = "classify"
    METHOD = "Classify"
    NEEDS = Needs(inputs=(IMAGE,), outputs=(LOGITS,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, endpoint)
        self._images = convert.BatchCheck.of(program.inputs[IMAGE], served.limit("max_images"))
        # A reply holds the probabilities as well, which are as large.
        self._reply_bytes = self.row_bytes(LOGITS, LOGITS)

    def read(self, request: pb.ClassifyRequest, prefix: str) -> Work:
        images = self._images.array(f"{prefix}images", request.images)
        convert.reply_size(f"{prefix}images", len(images), self._reply_bytes, self.room)
        return Work(len(images), {IMAGE: images}, [LOGITS])

    def fill(self, reply: pb.ClassifyResponse, job: OneShotJob) -> None:
        logits = job.output(LOGITS)  # [N,K]
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        convert.fill(reply.logits, logits)
        convert.fill(reply.probabilities, probabilities.astype(np.float32))
        reply.labels.extend(logits.argmax(axis=1).tolist())
        reply.class_names.extend(self.served.manifest.class_names)
