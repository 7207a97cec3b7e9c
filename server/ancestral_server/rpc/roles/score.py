"""Score: images to their log-likelihood, or a lower bound of it that is made of any number of draws.

Letters: N images, H, W, C image axes.
"""

from __future__ import annotations

import math

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import NoiseStreams, OneShotJob
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work, labels_of
from ancestral_server.rpc.roles.draws import Bound, DrawLimit, repeated
from ancestral_server.runtime.program import Needs, OneShotProgram

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
LOG_LIKELIHOOD = bundle_pb2.MEANING_LOG_LIKELIHOOD
LOG_WEIGHT = bundle_pb2.MEANING_LOG_WEIGHT
# What an image takes in a reply: its likelihood and its bits per dimension, float32 each.
_SCORE_BYTES = 8


class Score(ServiceRole[pb.ScoreRequest, pb.ScoreResponse]):
    NAME = "score"
    METHOD = "Score"
    STREAM = "ScoreStream"
    NEEDS = Needs(inputs=(IMAGE,), one_output_of=(LOG_LIKELIHOOD, LOG_WEIGHT))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, endpoint)
        self._images = convert.BatchCheck.of(program.inputs[IMAGE], served.limit("max_images"))
        # Shape of the noise of an image, where the likelihood is a bound that needs draws.
        self._noise = tuple(program.inputs[UNIFORMS].shape) if UNIFORMS in program.inputs else None
        limit = DrawLimit.of(program)
        assert limit is not None, "it needs an output with a likelihood"
        self._limit = limit
        self._nats_per_dim = np.float32(math.prod(served.image_shape) * math.log(2))

    def read(self, request: pb.ScoreRequest, prefix: str) -> Work:
        images = self._images.array(f"{prefix}images", request.images)
        rows = len(images)
        seed = convert.seed(f"{prefix}seed", request.seed)
        first = convert.first_index(f"{prefix}first_index", request.first_index, rows)
        given = {IMAGE: images, **labels_of(self.program, f"{prefix}labels", request.labels, rows)}
        draws = self._limit.check(f"{prefix}draws", request.draws if request.HasField("draws") else 1, rows)
        inputs = repeated(given, draws)
        if self._noise is not None:
            inputs[UNIFORMS] = NoiseStreams(seed, first, self._noise, draws=draws)
        convert.reply_size(f"{prefix}images", rows, _SCORE_BYTES, self.room)
        if not self._limit.weighs:
            return Work(rows, inputs, [LOG_LIKELIHOOD])
        return Work(rows * draws, inputs, [LOG_WEIGHT], {LOG_LIKELIHOOD: Bound(draws)}, draws)

    def fill(self, reply: pb.ScoreResponse, job: OneShotJob) -> None:
        likelihood = job.output(LOG_LIKELIHOOD)
        convert.fill(reply.log_likelihood, likelihood)
        convert.fill(reply.bits_per_dim, (-likelihood / self._nats_per_dim).astype(np.float32))
        reply.likelihood = self.program.role.likelihood
        if not self._limit.exact:
            reply.draws = job.rows // len(likelihood)
