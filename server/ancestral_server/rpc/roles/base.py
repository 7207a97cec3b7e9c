"""What the roles of a model have in common.

Letters: N rows of a request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from ancestral.v1 import bundle_pb2, timing_pb2
from ancestral.v1.priority_pb2 import Priority as WirePriority
from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.endpoint import TakesOneShots
from ancestral_server.engine.job import Derived, OneShotJob, Priority, RowSource
from ancestral_server.rpc import convert
from ancestral_server.rpc.asking import caller, fill_info
from ancestral_server.rpc.grpc_workarounds.reading import Context
from ancestral_server.rpc.recording import Subject
from ancestral_server.rpc.roles.signature import signature
from ancestral_server.rpc.roles.tensors import OneShotTensors, Tensors
from ancestral_server.runtime.program import Meaning, Needs, OneShotProgram, Program
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

LABEL = bundle_pb2.MEANING_LABEL
# What a reply needs beside its tensors: names, times, ids and class names, and the framing of gRPC.
ENVELOPE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """The model version that a role is of, and the limits of the server."""

    name: str
    version: int
    manifest: bundle_pb2.Bundle
    settings: Settings

    @staticmethod
    def of(model: ModelVersion, settings: Settings) -> Served:
        """What a role needs of a version. Not the version: that would keep one that has been unloaded."""
        assert model.manifest is not None, "a version that has come so far has a manifest"
        return Served(model.name, model.version, model.manifest, settings)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """H, W, C."""
        image = self.manifest.image
        return image.height, image.width, image.channels

    @property
    def room(self) -> int:
        """Bytes that the tensors of a reply may have."""
        return self.settings.max_message_bytes - ENVELOPE_BYTES

    def limit(self, name: str) -> convert.Limit:
        """A setting that bounds what a call may ask for."""
        return convert.Limit.of(self.settings, name)


class Role:
    """A role of a model version. `tensors` is its face in the Open Inference Protocol."""

    # As the manifest has it.
    NAME: ClassVar[str] = ""
    NEEDS: ClassVar[Needs] = Needs()

    def __init__(self, served: Served, program: Program, tensors: Tensors) -> None:
        self.served = served
        self.name = program.role.name
        self.subject = Subject(served.name, served.version, self.name)
        self.graph = program.role.graph
        self.signature = signature(program)
        self.tensors = tensors
        # Rows of a request by tensors.
        self.most_rows = served.limit("max_sample_count" if self.signature.draws else "max_images")
        self.room = served.room


class OneShotRole(Role):
    """A role whose answer is one run. One that no method of ours asks for is just this."""

    def __init__(self, served: Served, program: OneShotProgram, endpoint: TakesOneShots) -> None:
        super().__init__(served, program, OneShotTensors(program, endpoint, served.settings.max_batch))
        self.program = program
        self.endpoint = endpoint

    def row_bytes(self, *meanings: Meaning) -> int:
        """Bytes that so many outputs take in a reply for each row of a request."""
        return sum(self.program.row_bytes[meaning] for meaning in meanings)


# Most requests want nothing that is made of outputs.
NOTHING: Mapping[Meaning, Derived] = MappingProxyType({})


class Work(NamedTuple):
    """What a request asks of a one-shot endpoint: N rows of inputs, and the outputs that it wants of them."""

    rows: int
    inputs: Mapping[Meaning, RowSource]
    wanted: Sequence[Meaning]
    # Answers that are made of the outputs.
    derived: Mapping[Meaning, Derived] = NOTHING
    # Rows of an image.
    draws: int = 1


class Asks(Protocol):
    """What every request of the service says."""

    model: str
    version: int
    priority: WirePriority.ValueType


class Tells(Protocol):
    """What every reply of the service says."""

    @property
    def info(self) -> timing_pb2.ReplyInfo: ...


Req = TypeVar("Req", bound=Asks)
Res = TypeVar("Res", bound=Tells)


class ServiceRole(OneShotRole, ABC, Generic[Req, Res]):
    """A one-shot role that methods of our service ask for. `prefix` is the path of the request in the message that
    brought it, "encode." in a stream.
    """

    # The method that asks for it, by its name in the proto; and the one that takes a stream of such requests, whose
    # messages have request and reply in a field that is called like the role.
    METHOD: ClassVar[str]
    STREAM: ClassVar[str] = ""

    @abstractmethod
    def read(self, request: Req, prefix: str) -> Work:
        """Check every field that the role has to itself; InvalidArgument or RoleMissing names the first bad one."""

    @abstractmethod
    def fill(self, reply: Res, job: OneShotJob) -> None:
        """Write the outputs of a job that is done into an empty reply."""

    def job(
        self, request: Req, context: Context, prefix: str = "", unset: Priority = Priority.INTERACTIVE
    ) -> OneShotJob:
        """The job that a request asks for; `unset` is the priority of one that names none."""
        work = self.read(request, prefix)
        priority = unset
        if request.priority:
            priority = convert.priority(f"{prefix}priority", request.priority)
        return OneShotJob(
            work.rows,
            *caller(context),
            inputs=work.inputs,
            wanted=work.wanted,
            derived=work.derived,
            draws=work.draws,
            priority=priority,
        )

    def write(self, reply: Res, job: OneShotJob) -> None:
        """Write all of a reply, which may be a field of a message: one that is put together from messages copies each
        of them.
        """
        served = self.served
        fill_info(reply.info, served.name, served.version, job)
        self.fill(reply, job)


def labels_of(program: Program, field: str, values: Sequence[int], rows: int) -> dict[Meaning, Array]:
    """The labels that a request gives for so many images, as inputs of a class-conditional model."""
    classes = program.label_count if LABEL in program.inputs else 0
    labels = convert.labels(field, values, rows, classes)
    return {} if labels is None else {LABEL: labels}
