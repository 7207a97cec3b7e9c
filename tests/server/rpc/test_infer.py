"""Every request of the Open Inference Protocol is read on its own, whatever came before it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.engine.job import Priority
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc.open_inference import infer
from ancestral_server.rpc.open_inference.infer import InferCall
from ancestral_server.rpc.roles.base import Served
from ancestral_server.rpc.roles.encode import Encode
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime
from inference import open_inference_service_pb2 as oip
from openinference import ask, with_parameters

SETTINGS: Any = SimpleNamespace(max_images=8, max_sample_count=8, max_message_bytes=10**6, max_batch=8)
ENDPOINT: Any = None
IMAGE = bundle_pb2.MEANING_IMAGE


@pytest.fixture(scope="module")
def role(tmp_path_factory: pytest.TempPathFactory) -> Encode:
    bundle = read_bundle(toybundle.write(Path(tmp_path_factory.mktemp("models"))))
    found = next(role for role in bundle.manifest.roles if role.name == "encode")
    program = OneShotProgram(found, Runtime("cpu", 1).open(bundle.graph(found)), bundle.manifest)
    return Encode(Served("tally", 1, bundle.manifest, SETTINGS), program, ENDPOINT)


def pixels(value: int, rows: int = 1) -> np.ndarray[Any, Any]:
    return np.full((rows, 4, 3, 1), value, np.uint8)


def read(role: Encode, request: oip.ModelInferRequest) -> InferCall:
    return infer.read(role, oip.ModelInferRequest.FromString(request.SerializeToString()))


def test_numbered_requests_keep_their_ids_and_elements(role: Encode) -> None:
    for i in range(5):
        request = ask("tally", id=str(i), image=pixels(i, rows=2))
        call = read(role, request)
        assert np.array_equal(call.tensors.inputs[IMAGE], pixels(i, rows=2))
        reply = infer.reply(call, request, [np.array([[i, i], [i, i]], np.float32)])
        assert (reply.id, reply.model_name, reply.model_version) == (str(i), "tally", "1")
        (output,) = reply.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("code", "FP32", [2, 2])
        assert reply.raw_output_contents[0] == np.array([i, i, i, i], np.float32).tobytes()


def other(**parameters: int) -> oip.ModelInferRequest:
    return with_parameters(ask("tally", image=pixels(9)), **parameters)


def test_what_differs_in_one_thing_is_read_anew(role: Encode) -> None:
    usual = read(role, ask("tally", image=pixels(9))).tensors
    assert (usual.rows, usual.seed, usual.priority) == (1, 0, Priority.INTERACTIVE)
    assert read(role, ask("tally", image=pixels(9, rows=2))).tensors.rows == 2
    assert read(role, other(priority=2)).tensors.priority is Priority.BATCH
    assert read(role, other(timeout=5)).tensors.timeout_seconds == 5e-6
    assert read(role, other(seed=1)).tensors.seed == 1
    again = read(role, ask("tally", image=pixels(9))).tensors
    assert (again.rows, again.seed, again.priority, again.timeout_seconds) == (1, 0, usual.priority, float("inf"))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([b"123"], "raw_input_contents[0]: has 3 bytes"),
        ([bytes(12), b""], "raw_input_contents: holds 2 tensors, must hold 1"),
        ([], "inputs[0].contents.uint_contents: holds 0 elements"),
    ],
)
def test_the_elements_of_a_request_are_checked_each_time(role: Encode, raw: list[bytes], words: str) -> None:
    for i in range(3):
        read(role, ask("tally", image=pixels(i)))
        bad = ask("tally", image=pixels(i))
        bad.raw_input_contents[:] = raw
        with pytest.raises(InvalidArgument) as refused:
            read(role, bad)
        assert words in str(refused.value)
