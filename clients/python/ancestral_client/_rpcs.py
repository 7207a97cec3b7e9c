"""The calls of the wire, by name: what a transport is asked for. Those of a role stand in its file in `_roles`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from google.protobuf.message import Message

from ancestral.v1 import model_service_pb2 as models_pb

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[_Request, _Reply]):
    """One call of a service; of a stream, the types of one message each way."""

    service: Literal["inference", "models"]
    method: str
    hedged: bool = False
    """Whether a call may have a second attempt beside the first: of those that change nothing and whose answer is a run
    or less. Not of those that load models; nor of sampling, which takes as long as it has to, and whose second attempt
    would slow down the first."""


LIST_MODELS: Rpc[models_pb.ListModelsRequest, models_pb.ListModelsResponse] = Rpc("models", "ListModels", hedged=True)
GET_MODEL: Rpc[models_pb.GetModelRequest, models_pb.GetModelResponse] = Rpc("models", "GetModel", hedged=True)
LOAD_MODEL: Rpc[models_pb.LoadModelRequest, models_pb.LoadModelResponse] = Rpc("models", "LoadModel")
UNLOAD_MODEL: Rpc[models_pb.UnloadModelRequest, models_pb.UnloadModelResponse] = Rpc("models", "UnloadModel")
