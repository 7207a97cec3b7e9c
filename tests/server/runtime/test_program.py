"""Which graph of a role runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime

IMAGE, MEAN, LIKELIHOOD = (
    bundle_pb2.MEANING_IMAGE,
    bundle_pb2.MEANING_MEAN,
    bundle_pb2.MEANING_LOG_LIKELIHOOD,
)


def test_the_lean_form_runs_where_it_gives_all_that_is_wanted(tmp_path: Path) -> None:
    runtime, role = Runtime("cpu", 1), toybundle.roles()[0]
    # Told apart by what is added to the total.
    lean = OneShotProgram(
        role, runtime.open(toybundle.write(tmp_path, offset=100.0) / "encode.onnx"), bundle_pb2.Bundle()
    )
    role.outputs.append(toybundle.LIKELIHOOD)
    session = runtime.open(toybundle.write(tmp_path, version=2) / "encode.onnx")
    program = OneShotProgram(role, session, bundle_pb2.Bundle(), lean)
    images = toybundle.golden()["encode/in/image"]
    (mean,) = program.run({IMAGE: images}, [MEAN]).values()
    assert np.array_equal(mean, toybundle.encode(images, 100.0))
    both = program.run({IMAGE: images}, [LIKELIHOOD, MEAN])
    assert np.array_equal(both[MEAN], toybundle.encode(images))
    assert np.array_equal(both[LIKELIHOOD], -both[MEAN][:, 0])
