"""Decode: latents to images, the mean of p(x|z).

Letters: N latents, Z their dimensions.
"""

from __future__ import annotations

from ancestral.v1 import bundle_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.endpoint import OneShotEndpoint
from ancestral_server.engine.job import OneShotJob
from ancestral_server.rpc import convert
from ancestral_server.rpc.roles.base import Served, ServiceRole, Work
from ancestral_server.runtime.program import Needs, OneShotProgram

LATENT = bundle_pb2.MEANING_LATENT
IMAGE = bundle_pb2.MEANING_IMAGE


class Decode(ServiceRole[pb.DecodeRequest, pb.DecodeResponse]):
    NAME = "decode"
    NEEDS = Needs(inputs=(LATENT,), outputs=(IMAGE,))

    def __init__(self, served: Served, program: OneShotProgram, endpoint: OneShotEndpoint) -> None:
        super().__init__(served, program, endpoint)
        self._latents = convert.BatchCheck.of(program.inputs[LATENT], served.limit("max_images"))
        self._image_bytes = self.row_bytes(IMAGE)

    def read(self, request: pb.DecodeRequest, prefix: str) -> Work:
        latents = self._latents.array(f"{prefix}latents", request.latents)
        convert.reply_size(f"{prefix}latents", len(latents), self._image_bytes, self.room)
        return Work(len(latents), {LATENT: latents}, [IMAGE])

    def fill(self, reply: pb.DecodeResponse, job: OneShotJob) -> None:
        convert.fill(reply.images, job.output(IMAGE))
