"""Score: images to their log-likelihood, or a lower bound of it.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import NoiseStreams, OneShotJob
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work, labels_of
from ancestral_server.runtime.program import Needs, OneShotProgram

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD


class Score(ServiceRole[pb.ScoreRequest, pb.ScoreResponse]):
    NAME = "score"
    NEEDS = Needs(inputs=(IMAGE,), outputs=(LOG_LIKELIHOOD,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: OneShotEndpoint) -> None:
        super().__init__(served, program, endpoint)
        self._images = convert.BatchCheck.of(program.inputs[IMAGE], served.limit("max_images"))
        # Shape of the noise of an image, where the likelihood is a bound that needs draws.
        self._noise = tuple(program.inputs[UNIFORMS].shape) if UNIFORMS in program.inputs else None
        self._score_bytes = self.row_bytes(LOG_LIKELIHOOD)
        self._nats_per_dim = np.float32(math.prod(served.image_shape) * math.log(2))

    def read(self, request: pb.ScoreRequest, prefix: str) -> Work:
        images = self._images.array(f"{prefix}images", request.images)
        rows = len(images)
        seed = convert.seed(f"{prefix}seed", request.seed)
        first = convert.first_index(f"{prefix}first_index", request.first_index, rows)
        inputs = {IMAGE: images, **labels_of(self.program, f"{prefix}labels", request.labels, rows)}
        if self._noise is not None:
            inputs[UNIFORMS] = NoiseStreams(seed, first, self._noise)
        convert.reply_size(f"{prefix}images", rows, self._score_bytes, self.room)
        return Work(rows, inputs, [LOG_LIKELIHOOD])

    def fill(self, reply: pb.ScoreResponse, job: OneShotJob) -> None:
        likelihood = job.output(LOG_LIKELIHOOD)
        convert.fill(reply.log_likelihood, likelihood)
        convert.fill(reply.bits_per_dim, (-likelihood / self._nats_per_dim).astype(np.float32))
        reply.likelihood = self.program.role.likelihood
