"""Arrays to the wire and back, and calls to the real server."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

import toybundle
from ancestral.bundle.dtypes import DTYPES, NUMBERS
from ancestral.v1 import inference_service_pb2_grpc, tensor_pb2
from running import ServerProcess

Array = np.ndarray[Any, Any]


def tensor(array: Array) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=NUMBERS[array.dtype], shape=array.shape, data=array.tobytes())


def array(message: tensor_pb2.Tensor) -> Array:
    return np.frombuffer(message.data, DTYPES[message.dtype]).reshape(message.shape)


def toy_images(n: int, seed: int = 11) -> Array:
    """Images for a toy bundle, [n,4,3,1] uint8; the same for the same seed, whoever asked before."""
    return np.random.default_rng(seed).integers(0, 256, (n, toybundle.HEIGHT, toybundle.WIDTH, 1), dtype=np.uint8)


def inference(server: ServerProcess) -> inference_service_pb2_grpc.InferenceServiceStub:
    return inference_service_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(server.address))
