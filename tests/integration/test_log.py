"""A log that cannot be written: the operator loses its lines, callers lose nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import grpc
import pytest

from ancestral.v1 import inference_service_pb2 as pb
from running import ServerProcess
from waiting import PATIENCE
from wire import inference, tensor, toy_images


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("trouble", ["disk full", "reader gone"])
def test_calls_are_answered_and_the_server_stops(toy_models: Path, trouble: str) -> None:
    if trouble == "disk full":
        log = os.open("/dev/full", os.O_WRONLY)
    else:
        # As of `ancestral-server 2>&1 | tee log` whose tee was killed.
        reader, log = os.pipe()
        os.close(reader)
    try:
        with ServerProcess(toy_models, "--log-calls", "true", log=log) as server:
            stub = inference(server)
            with pytest.raises(grpc.RpcError) as missing:
                stub.Encode(pb.EncodeRequest(model="nobody"), timeout=PATIENCE)
            assert missing.value.code() is grpc.StatusCode.NOT_FOUND
            reply = stub.Encode(pb.EncodeRequest(model="tally", images=tensor(toy_images(3))), timeout=PATIENCE)
            assert reply.mean.shape == [3, 2]
            assert server.stop() == 0
    finally:
        os.close(log)
