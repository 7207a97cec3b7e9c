"""Which graph of a role runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime

IMAGE, MEAN, LIKELIHOOD = (
    bundle_pb2.MEANING_IMAGE,
    bundle_pb2.MEANING_MEAN,
    bundle_pb2.MEANING_LOG_LIKELIHOOD,
)


def test_the_lean_form_runs_where_it_gives_all_that_is_wanted(tmp_path: Path) -> None:
    runtime, role = Runtime("cpu", 1), toybundle.roles()[0]
    folder, other = toybundle.write(tmp_path), toybundle.write(tmp_path, version=2, offset=100.0)
    manifest = read_bundle(folder).manifest
    # Told apart by what is added to the total.
    lean = OneShotProgram(role, runtime.open(other / "encode.onnx"), manifest)
    whole = bundle_pb2.Role()
    whole.CopyFrom(role)
    whole.outputs.append(toybundle.LIKELIHOOD)
    program = OneShotProgram(whole, runtime.open(folder / "encode.onnx"), manifest, lean)
    images = toybundle.golden()["encode/in/image"]
    assert program.form([MEAN]) is lean
    (mean,) = lean.run({IMAGE: images}, [MEAN]).values()
    assert np.allclose(mean, toybundle.encode(images, 100.0))
    assert program.form([LIKELIHOOD, MEAN]) is program
    both = program.run({IMAGE: images}, [LIKELIHOOD, MEAN])
    assert np.allclose(both[MEAN], toybundle.encode(images))
    assert np.allclose(both[LIKELIHOOD], -both[MEAN][:, 0])
