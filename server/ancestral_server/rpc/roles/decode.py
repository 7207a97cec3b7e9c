"""Decode: latents to images, the mean of p(x|z), and on request its mean and variance unrounded.

Letters: N latents, Z their dimensions.
"""

from __future__ import annotations

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import OneShotJob
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work
from ancestral_server.runtime.program import Meaning, Needs, OneShotProgram

LATENT = bundle_pb2.MEANING_LATENT
IMAGE = bundle_pb2.MEANING_IMAGE
PIXEL_MEAN = bundle_pb2.MEANING_PIXEL_MEAN
PIXEL_VARIANCE = bundle_pb2.MEANING_PIXEL_VARIANCE


class Decode(ServiceRole[pb.DecodeRequest, pb.DecodeResponse]):
    NAME = "decode"
    METHOD = "Decode"
    NEEDS = Needs(inputs=(LATENT,), outputs=(IMAGE,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, endpoint)
        self._latents = convert.BatchCheck.of(program.inputs[LATENT], served.limit("max_images"))
        # The outputs that a request wants, and the bytes that they take of each image.
        self._image = [IMAGE], self.row_bytes(IMAGE)
        self._all: tuple[list[Meaning], int] | None = None
        if PIXEL_VARIANCE in program.outputs:
            self._all = [IMAGE, PIXEL_MEAN, PIXEL_VARIANCE], self.row_bytes(IMAGE, PIXEL_MEAN, PIXEL_VARIANCE)

    def read(self, request: pb.DecodeRequest, prefix: str) -> Work:
        latents = self._latents.array(f"{prefix}latents", request.latents)
        asked = self._all if request.include_variance else self._image
        if asked is None:
            raise InvalidArgument(
                f"{prefix}include_variance",
                f"is true, must be unset: the decoder of {self.served.name} gives no variance",
            )
        wanted, row_bytes = asked
        convert.reply_size(f"{prefix}latents", len(latents), row_bytes, self.room)
        return Work(len(latents), {LATENT: latents}, wanted)

    def fill(self, reply: pb.DecodeResponse, job: OneShotJob) -> None:
        convert.fill(reply.images, job.output(IMAGE))
        if PIXEL_VARIANCE in job.pieces:
            convert.fill(reply.mean, job.output(PIXEL_MEAN))
            convert.fill(reply.variance, job.output(PIXEL_VARIANCE))
