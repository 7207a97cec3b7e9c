"""The calls of the wire, by name: what a transport is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from google.protobuf.message import Message

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2 as models_pb

_Request = TypeVar("_Request", bound=Message)
_Reply = TypeVar("_Reply", bound=Message)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[_Request, _Reply]):
    """One call of a service; of a stream, the types of one message each way."""

    service: Literal["inference", "models"]
    method: str


SAMPLE: Rpc[pb.SampleRequest, pb.SampleResponse] = Rpc("inference", "Sample")
SAMPLE_STREAM: Rpc[pb.SampleStreamRequest, pb.SampleStreamResponse] = Rpc("inference", "SampleStream")
ENCODE: Rpc[pb.EncodeRequest, pb.EncodeResponse] = Rpc("inference", "Encode")
ENCODE_STREAM: Rpc[pb.EncodeStreamRequest, pb.EncodeStreamResponse] = Rpc("inference", "EncodeStream")
DECODE: Rpc[pb.DecodeRequest, pb.DecodeResponse] = Rpc("inference", "Decode")
FEATURES: Rpc[pb.ExtractFeaturesRequest, pb.ExtractFeaturesResponse] = Rpc("inference", "ExtractFeatures")
CLASSIFY: Rpc[pb.ClassifyRequest, pb.ClassifyResponse] = Rpc("inference", "Classify")
SCORE: Rpc[pb.ScoreRequest, pb.ScoreResponse] = Rpc("inference", "Score")
SCORE_STREAM: Rpc[pb.ScoreStreamRequest, pb.ScoreStreamResponse] = Rpc("inference", "ScoreStream")

LIST_MODELS: Rpc[models_pb.ListModelsRequest, models_pb.ListModelsResponse] = Rpc("models", "ListModels")
GET_MODEL: Rpc[models_pb.GetModelRequest, models_pb.GetModelResponse] = Rpc("models", "GetModel")
LOAD_MODEL: Rpc[models_pb.LoadModelRequest, models_pb.LoadModelResponse] = Rpc("models", "LoadModel")
UNLOAD_MODEL: Rpc[models_pb.UnloadModelRequest, models_pb.UnloadModelResponse] = Rpc("models", "UnloadModel")
