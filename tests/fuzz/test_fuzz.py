"""A few thousand cases of each fuzzer, and that the fuzzers would see a fault; `make fuzz` runs the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fuzz_bundles
import fuzz_requests
import messages
from ancestral.v1 import inference_service_pb2 as pb


def test_malformed_requests_over_every_rpc(tmp_path: Path) -> None:
    result = fuzz_requests.fuzz(tmp_path, 3000, seed=20)
    assert result.faults == []
    assert result.cases == 3000
    for rpc in ("InferenceService/Encode", "InferenceService/SampleStream", "ModelService/GetModel", "Health/Watch"):
        assert any(path.endswith(rpc) for path in result.rpcs), rpc
    # Some are right in spite of all, so the mutations are near enough to what is right to reach deep.
    for code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "raw"):
        assert result.codes[code] > 10, code


def test_corrupted_bundles() -> None:
    result = fuzz_bundles.fuzz(250, seed=20)
    assert result.faults == []
    assert result.cases == 250
    assert len(result.reasons) > 20


def test_a_case_that_kills_the_process_is_named() -> None:
    result = fuzz_bundles.Result()
    # Numbers that are no numbers end the child at once.
    assert list(fuzz_bundles._child("x", range(3, 5), result)) == []  # type: ignore[arg-type]
    (fault,) = result.faults
    assert "case 3 ended the process with 1" in fault
    assert "invalid literal" in fault


def test_a_case_is_the_same_again() -> None:
    def made() -> list[bytes]:
        random = np.random.default_rng([1, 2])
        requests = [messages.request(pb.EncodeRequest, random, "tally") for _ in range(50)]
        return [r if isinstance(r, bytes) else r.SerializeToString(deterministic=True) for r in requests]

    assert made() == made()
    assert len(set(made())) > 40


def test_faults_that_the_server_logged_are_found() -> None:
    log = ["fine\n", '{"event": "call failed", "level": "error"}\n', "Traceback (most recent call last):\n"]
    assert len(fuzz_requests.trouble(log)) == 2
    assert fuzz_requests.trouble(log[:1]) == []
