"""Triton's own client, as it comes from the registry, works with this server and gets the native service's bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import grpc
import numpy as np

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, tensor_pb2
from running import ServerProcess
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools" / "triton" / "bin" / "python"


def test_tritons_client_asks_everything_and_gets_the_native_bytes(toy_models: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (80, 4, 3, 1), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    # Of its own, since it counts what this server did.
    with ServerProcess(toy_models) as server:
        session = [str(PYTHON), str(ROOT / "tests" / "tritonsession.py"), server.address]
        done = subprocess.run(
            [*session, str(tmp_path / "in.npz"), str(tmp_path / "out.npz")],
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        stub = inference_service_pb2_grpc.InferenceServiceStub(grpc.insecure_channel(server.address))
        sent = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=images.shape, data=images.tobytes())
        code = stub.Encode(pb.EncodeRequest(model="tally", images=sent), timeout=PATIENCE).mean.data
        score = stub.Score(pb.ScoreRequest(model="tally", images=sent), timeout=PATIENCE).log_likelihood.data
        samples = [
            stub.Sample(pb.SampleRequest(model="tally", count=1, seed=5, first_index=i), timeout=PATIENCE)
            for i in (7, 3, 1000)
        ]
    with np.load(tmp_path / "out.npz") as arrays:
        assert {arrays[name].tobytes() for name in ("encode", "async", "aio")} == {code}
        assert arrays["encode"].shape == (80, 2)
        assert arrays["score"].tobytes() == score
        assert arrays["sample"].tobytes() == b"".join(sample.images.data for sample in samples)
        assert arrays["likelihood"].tobytes() == b"".join(sample.log_likelihood.data for sample in samples)

    said = json.loads(done.stdout)
    assert (said["live"], said["ready"], said["model_ready"]) == (True, True, [True, True, False])
    assert said["server"]["name"] == "ancestral"
    assert said["metadata"]["inputs"] == [
        {"name": "index", "datatype": "INT64", "shape": ["-1", "1"]},
        {"name": "given", "datatype": "UINT8", "shape": ["-1", "4", "3", "1"]},
        {"name": "known", "datatype": "BOOL", "shape": ["-1", "4", "3", "1"]},
    ]
    assert said["index"] == [[["tally", "1", state]] for state in ("READY", "UNAVAILABLE", "READY")]
    config = said["config"]["config"]
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("tally", "onnxruntime_onnx", 10_000)
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["4", "3", "1"]}]
    assert config["output"] == [{"name": "code", "data_type": "TYPE_FP32", "dims": ["2"]}]
    assert "dynamic_batching" in config
    assert (said["id"], said["version"], said["seed"]) == ("mine", "1", 5)
    (stats,) = said["statistics"]["model_stats"]
    assert (stats["name"], stats["version"]) == ("tally.encode", "1")
    assert int(stats["inference_count"]) == 160
    assert stats["inference_stats"]["success"]["count"] == "2"
    assert int(stats["execution_count"]) == sum(int(batch["compute_infer"]["count"]) for batch in stats["batch_stats"])
    code_of, text = said["errors"]["unknown"]
    assert (code_of, "there are: tally" in text) == ("StatusCode.NOT_FOUND", True)
    code_of, text = said["errors"]["wrong"]
    assert (code_of, "there are 'index'" in text) == ("StatusCode.INVALID_ARGUMENT", True)
