"""Every RPC of a server as a plain value, found by asking the server, so that new ones are seen by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ancestral_client._grpc_workarounds import kept_status
from waiting import PATIENCE

# What grpc.aio's client says instead of the status that it was sent, where the server ended the call while it was still
# writing (grpc/grpc#36066). No server can help it; our client's workaround, which calls from here go by, does.
STATUS_LOST = "Internal error from Core"


@dataclass(frozen=True)
class Rpc:
    """A method: its path, how many messages go each way, and their types."""

    path: str
    takes_many: bool
    gives_many: bool
    request: type[Message]
    reply: type[Message]

    @staticmethod
    def of(method: MethodDescriptor) -> Rpc:
        return Rpc(
            f"/{method.containing_service.full_name}/{method.name}",
            method.client_streaming,
            method.server_streaming,
            message_factory.GetMessageClass(method.input_type),
            message_factory.GetMessageClass(method.output_type),
        )

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def call(self, channel: grpc.aio.Channel, requests: Sequence[Message | bytes], **options: Any) -> Any:
        """Start a call; a request may be bytes that are no message, and there may be more or fewer than it takes."""
        codecs = (_bytes, self.reply.FromString)
        if not self.takes_many and len(requests) == 1:
            one = channel.unary_stream if self.gives_many else channel.unary_unary
            return one(self.path, *codecs)(requests[0], **options)
        many = channel.stream_stream if self.gives_many else channel.stream_unary
        return kept_status.kept(many(self.path, *codecs)(_each(requests), **options))


async def replies(call: Any) -> AsyncIterator[Any]:
    """The replies of a started call, one or many; grpc.aio.AioRpcError if it does not end well."""
    if hasattr(call, "__aiter__"):
        async for reply in call:
            yield reply
    else:
        yield await call


def rpcs_of(address: str) -> list[Rpc]:
    """All methods of all services of the server at `address`, by path; over reflection."""
    with grpc.insecure_channel(address) as channel:
        ask = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

        def one(**fields: str) -> Any:
            (reply,) = ask(iter([reflection_pb2.ServerReflectionRequest(**fields)]), timeout=PATIENCE)
            return reply

        pool = descriptor_pool.DescriptorPool()
        added: set[str] = set()

        def add(reply: Any) -> None:
            for content in reply.file_descriptor_response.file_descriptor_proto:
                file = descriptor_pb2.FileDescriptorProto.FromString(content)
                if file.name in added:
                    continue
                added.add(file.name)
                for dependency in file.dependency:
                    add(one(file_by_filename=dependency))
                pool.Add(file)

        services = [service.name for service in one(list_services="").list_services_response.service]
        for service in services:
            add(one(file_containing_symbol=service))
    methods = [method for service in services for method in pool.FindServiceByName(service).methods]
    return sorted((Rpc.of(method) for method in methods), key=lambda rpc: rpc.path)


def _bytes(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


async def _each(messages: Sequence[Message | bytes]) -> AsyncIterator[Message | bytes]:
    for message in messages:
        yield message
