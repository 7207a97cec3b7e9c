"""Our stubs of the Open Inference Protocol beside others' of the same names, in one process, whoever comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRITON = ROOT / ".tools" / "triton" / "bin" / "python"
# The descriptors of Triton's client as it comes from the registry. It wants a protobuf below that of our stubs, so its
# environment gives them away, and another process registers them where its import would.
DUMP = """
import sys, tritonclient.grpc.model_config_pb2 as config, tritonclient.grpc.service_pb2 as service
print(config.DESCRIPTOR.serialized_pb.hex(), service.DESCRIPTOR.serialized_pb.hex())
"""
THEIRS = """
from google.protobuf import descriptor_pool, message_factory
pool = descriptor_pool.Default()
for text in {files!r}.split():
    file = pool.AddSerializedFile(bytes.fromhex(text))
"""
OURS = """
from inference import model_config_pb2, open_inference_service_pb2 as ours, open_inference_service_pb2_grpc
"""
BOTH = """
theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
assert theirs is not ours.ModelInferRequest
sent = theirs(model_name="tally.encode", id="1")
sent.parameters["seed"].int64_param = 7
assert ours.ModelInferRequest.FromString(sent.SerializeToString()).parameters["seed"].int64_param == 7
"""


@pytest.fixture(scope="module")
def theirs() -> str:
    files = subprocess.run([TRITON, "-c", DUMP], capture_output=True, text=True, timeout=120, check=True).stdout
    return THEIRS.format(files=files)


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_both_are_there_in_one_process(theirs: str, first: str) -> None:
    program = (theirs + OURS if first == "theirs" else OURS + theirs) + BOTH
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
