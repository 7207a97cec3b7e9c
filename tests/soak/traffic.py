"""What callers ask, each with what tells a right answer from a wrong one. A new RPC is one more entry of KINDS.

Letters: N images of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import Message

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2, tensor_pb2
from inference import open_inference_service_pb2
from inference import open_inference_service_pb2 as oip
from rpcs import Rpc
from wire import Array, tensor

MODEL = "tally"
SHAPE = (toybundle.HEIGHT, toybundle.WIDTH, 1)

Random = np.random.Generator


@dataclass(frozen=True)
class Ask:
    """Messages to send, and what is wrong with the replies; "" where nothing is."""

    rpc: Rpc
    requests: list[Message | bytes]
    problem: Callable[[list[Any]], str]


def write_version(models: Path, version: int, layers: int = 0, scratch: int = 0) -> Path:
    """A version of the model whose answers are those of no other."""
    return toybundle.write(models, MODEL, version, offset=offset(version), layers=layers, scratch=scratch)


def offset(version: int) -> float:
    return 100.0 * (version - 1)


def encode(random: Random, images: int = 0) -> Ask:
    array = some_images(random, images)

    def problem(replies: list[Any]) -> str:
        (reply,) = replies
        return differ(floats(reply.mean, 2), toybundle.encode(array, offset(reply.info.version)))

    return Ask(ENCODE, [pb.EncodeRequest(model=MODEL, images=tensor(array))], problem)


def encode_stream(random: Random) -> Ask:
    arrays = [some_images(random) for _ in range(int(random.integers(1, 6)))]
    requests = [pb.EncodeStreamRequest(encode=pb.EncodeRequest(images=tensor(array))) for array in arrays]
    requests[0].encode.model = MODEL

    def problem(replies: list[Any]) -> str:
        if [reply.index for reply in replies] != list(range(len(arrays))):
            return f"answers {[reply.index for reply in replies]} to {len(arrays)} messages"
        if any(not reply.HasField("encode") for reply in replies):
            return f"an error: {next(reply.error for reply in replies if reply.HasField('error'))}"
        told = [reply.encode for reply in replies]
        if len({reply.info.version for reply in told}) > 1:
            return "answers of more than one version"
        return "".join(
            differ(floats(reply.mean, 2), toybundle.encode(array, offset(reply.info.version)))
            for reply, array in zip(told, arrays, strict=True)
        )

    return Ask(ENCODE_STREAM, [*requests], problem)


def model_infer(random: Random) -> Ask:
    array = some_images(random)
    request = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=array.shape)

    def problem(replies: list[Any]) -> str:
        (reply,) = replies
        got = np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(reply.outputs[0].shape)
        return differ(got, toybundle.encode(array, offset(int(reply.model_version))))

    return Ask(MODEL_INFER, [request], problem)


def score(random: Random) -> Ask:
    array = some_images(random)

    def problem(replies: list[Any]) -> str:
        (reply,) = replies
        return differ(floats(reply.log_likelihood), -toybundle.encode(array, offset(reply.info.version))[:, 0])

    return Ask(SCORE, [pb.ScoreRequest(model=MODEL, images=tensor(array))], problem)


def sample(random: Random) -> Ask:
    request, images, likelihood = drawing(random)

    def problem(replies: list[Any]) -> str:
        (reply,) = replies
        if reply.images.data != images.tobytes():
            return f"other images than those of seed {request.seed}"
        return differ(floats(reply.log_likelihood), likelihood)

    return Ask(SAMPLE, [request], problem)


def sample_stream(random: Random) -> Ask:
    request, images, _ = drawing(random)
    progress = bool(random.integers(2))

    def problem(replies: list[Any]) -> str:
        told = [reply.image for reply in replies if reply.HasField("image")]
        rows = [reply.row for reply in replies if reply.HasField("row")]
        first = request.first_index
        if sorted(image.index for image in told) != list(range(first, first + request.count)):
            return f"images {sorted(image.index for image in told)}, each of {request.count} from {first} was due once"
        if len(rows) != progress * request.count * toybundle.HEIGHT:
            return f"{len(rows)} rows of {request.count} images"
        right = all(image.image.data == images[image.index - first].tobytes() for image in told)
        right = right and all(row.pixels.data == images[row.index - first, row.row].tobytes() for row in rows)
        return "" if right else f"other pixels than those of seed {request.seed}"

    return Ask(SAMPLE_STREAM, [pb.SampleStreamRequest(sample=request, progress=progress)], problem)


def list_models(_: Random) -> Ask:
    def problem(replies: list[Any]) -> str:
        return "" if any(model.name == MODEL for model in replies[0].models) else f"{MODEL} is not listed"

    return Ask(LIST_MODELS, [model_service_pb2.ListModelsRequest()], problem)


def _rpc(file: Any, service: str, method: str) -> Rpc:
    return Rpc.of(file.DESCRIPTOR.services_by_name[service].methods_by_name[method])


ENCODE = _rpc(pb, "InferenceService", "Encode")
ENCODE_STREAM = _rpc(pb, "InferenceService", "EncodeStream")
MODEL_INFER = _rpc(open_inference_service_pb2, "GRPCInferenceService", "ModelInfer")
SCORE = _rpc(pb, "InferenceService", "Score")
SAMPLE = _rpc(pb, "InferenceService", "Sample")
SAMPLE_STREAM = _rpc(pb, "InferenceService", "SampleStream")
LIST_MODELS = _rpc(model_service_pb2, "ModelService", "ListModels")

# How often each is asked.
KINDS: dict[Callable[[Random], Ask], float] = {
    encode: 0.3,
    encode_stream: 0.05,
    model_infer: 0.1,
    score: 0.1,
    sample: 0.2,
    sample_stream: 0.2,
    list_models: 0.05,
}


def some_kind(random: Random) -> Ask:
    makers, weights = list(KINDS), np.array(list(KINDS.values()))
    return makers[random.choice(len(makers), p=weights / weights.sum())](random)


def wrong(random: Random) -> tuple[Ask, set[str]]:
    """A request that must be refused, and the codes that are right for it."""
    request = pb.EncodeRequest(model=MODEL, images=tensor(some_images(random)))
    match random.integers(7):
        case 0:
            return Ask(ENCODE, [random.bytes(40) + b"\xff"], _never), {"INVALID_ARGUMENT"}
        case 1:
            request.images.shape[0] += 1
        case 2:
            request.images.dtype = tensor_pb2.DATA_TYPE_FLOAT32
        case 3:
            request.images.shape[:] = [2**62, 2**62]
        case 4:
            request.model = "nobody"
            return Ask(ENCODE, [request], _never), {"NOT_FOUND"}
        case 5:
            count = int(random.choice([-1, 0, 10**9]))
            return Ask(SAMPLE, [pb.SampleRequest(model=MODEL, count=count)], _never), {"INVALID_ARGUMENT"}
        case _:
            return Ask(SAMPLE_STREAM, [], _never), {"INVALID_ARGUMENT"}
    return Ask(ENCODE, [request], _never), {"INVALID_ARGUMENT"}


def oversized(random: Random, limit: int) -> tuple[Ask, set[str]]:
    """More bytes than the server takes."""
    return Ask(ENCODE, [bytes(limit + 1 + int(random.integers(2**20)))], _never), {"RESOURCE_EXHAUSTED"}


def _never(replies: list[Any]) -> str:
    return "it was answered"


def drawing(random: Random) -> tuple[pb.SampleRequest, Array, Array]:
    """A request for N samples, mostly few and sometimes hundreds; its images [N,4,3,1] and log-likelihoods [N]."""
    count = int(random.integers(1, 400) if random.random() < 0.03 else random.integers(1, 12))
    seed, first = int(random.integers(2**40)), int(random.integers(1000))
    images, likelihood = toybundle.paint(uniforms_of_range(seed, first, count, SHAPE))
    return pb.SampleRequest(model=MODEL, count=count, seed=seed, first_index=first), images, likelihood


def some_images(random: Random, count: int = 0) -> Array:
    """[N,4,3,1] uint8; `count` 0: mostly few, sometimes more than a batch."""
    count = count or int(random.integers(1, 200) if random.random() < 0.05 else random.integers(1, 6))
    return random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def floats(message: tensor_pb2.Tensor, *axes: int) -> Array:
    return np.frombuffer(message.data, np.float32).reshape(-1, *axes)


def differ(got: Array, right: Array) -> str:
    if got.shape != right.shape:
        return f"shape {got.shape}, not {right.shape}"
    worst = float(np.abs(got - right).max())
    return "" if worst < 1e-2 else f"differs by {worst:g}"
