"""Parameters of the Open Inference Protocol that leave no trace in a reply."""

from __future__ import annotations

import math

import pytest

from ancestral_server.engine.job import Priority
from ancestral_server.rpc.open_inference import parameters
from inference import open_inference_service_pb2 as oip


def integer(value: int) -> oip.InferParameter:
    return oip.InferParameter(int64_param=value)


@pytest.mark.parametrize(
    ("value", "priority"), [(0, Priority.INTERACTIVE), (1, Priority.INTERACTIVE), (2, Priority.BATCH)]
)
def test_priority(value: int, priority: Priority) -> None:
    assert parameters.read({"priority": integer(value)}).priority is priority
    # As Triton's client sends it.
    assert parameters.read({"priority": oip.InferParameter(uint64_param=value)}).priority is priority


def test_timeout_is_in_microseconds_and_zero_is_none() -> None:
    assert parameters.read({"timeout": integer(2_500)}).timeout_seconds == 0.0025
    assert parameters.read({"timeout": integer(0)}).timeout_seconds == math.inf
    assert parameters.read({}).timeout_seconds == math.inf


def test_a_seed_of_zero_is_a_seed() -> None:
    assert parameters.read({"seed": integer(0)}).seed == 0
    assert parameters.read({}).seed is None
