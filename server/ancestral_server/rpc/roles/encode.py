"""Encode: images to the posterior q(z|x), and on request a draw from it.

Letters: N images, H, W, C image axes, Z latent dimensions.
"""

from __future__ import annotations

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import NoiseStreams, OneShotJob
from ancestral_server.errors import RoleMissing
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work
from ancestral_server.rpc.roles.draws import PosteriorDraw
from ancestral_server.runtime.program import Needs, OneShotProgram

IMAGE = bundle_pb2.MEANING_IMAGE
UNIFORMS = bundle_pb2.MEANING_UNIFORMS
MEAN = bundle_pb2.MEANING_MEAN
LOG_VARIANCE = bundle_pb2.MEANING_LOG_VARIANCE
LATENT = bundle_pb2.MEANING_LATENT


class Encode(ServiceRole[pb.EncodeRequest, pb.EncodeResponse]):
    NAME = "encode"
    METHOD = "Encode"
    STREAM = "EncodeStream"
    NEEDS = Needs(inputs=(IMAGE,), outputs=(MEAN,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, endpoint)
        self._images = convert.BatchCheck.of(program.inputs[IMAGE], served.limit("max_images"))
        self._moments = [meaning for meaning in (MEAN, LOG_VARIANCE) if meaning in program.outputs]
        self._moment_bytes = self.row_bytes(*self._moments)
        # Shape of the noise of an image, where the graph draws z itself.
        self._noise: tuple[int, ...] | None = None
        if LATENT in program.outputs and UNIFORMS in program.inputs:
            self._noise = tuple(program.inputs[UNIFORMS].shape)
        # Where the graph does not draw z, it is drawn of the moments, if there are two.
        self._draws = PosteriorDraw.possible(program)
        # z is as large as its mean.
        self._all_bytes = self._moment_bytes + self.row_bytes(MEAN)

    def read(self, request: pb.EncodeRequest, prefix: str) -> Work:
        images = self._images.array(f"{prefix}images", request.images)
        rows = len(images)
        first = request.first_index
        if first:
            convert.first_index(f"{prefix}first_index", first, rows)
        if not request.HasField("draw_seed"):
            convert.reply_size(f"{prefix}images", rows, self._moment_bytes, self.room)
            return Work(rows, {IMAGE: images}, self._moments)
        field, name = f"{prefix}draw_seed", self.served.name
        seed = convert.seed(field, request.draw_seed)
        if self._noise is None and not self._draws:
            raise RoleMissing(name, f"{field}: the encoder of {name} is deterministic, draws nothing", field)
        convert.reply_size(f"{prefix}images", rows, self._all_bytes, self.room)
        if self._noise is None:
            return Work(rows, {IMAGE: images}, self._moments, {LATENT: PosteriorDraw(seed, first)})
        return Work(rows, {IMAGE: images, UNIFORMS: NoiseStreams(seed, first, self._noise)}, [*self._moments, LATENT])

    def fill(self, reply: pb.EncodeResponse, job: OneShotJob) -> None:
        convert.fill(reply.mean, job.output(MEAN))
        if LOG_VARIANCE in job.pieces:
            convert.fill(reply.log_variance, job.output(LOG_VARIANCE))
        if LATENT in job.pieces:
            convert.fill(reply.latent, job.output(LATENT))
