"""What this server works around is still so in the onnxruntime that is installed: a test that fails says that a
workaround may go, or has to be looked at anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import toybundle
from ancestral_server.runtime.onnxruntime_workarounds import bare_run
from ancestral_server.runtime.onnxruntime_workarounds.messages import out_of_memory, requested_bytes


def test_onnxruntime_is_the_one_that_was_looked_at() -> None:
    """Some faults show only on a GPU: with another version, look at the entries of `runtime/onnxruntime_workarounds`
    that name this test, and then set theirs and this one.
    """
    assert metadata.version("onnxruntime-gpu" if sys.platform != "darwin" else "onnxruntime").startswith("1.31.")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the cache is in another folder")
@pytest.mark.parametrize("left_out", [False, True])
def test_onnxruntime_still_leaves_traces_in_the_cache(tmp_path: Path, left_out: bool) -> None:
    module = "ancestral_server.runtime.session" if left_out else "onnxruntime"
    # The traces depend on more of the environment than that setting: onnxruntime leaves none where `CI` is set.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True, timeout=120)
    assert any(path.is_file() for path in tmp_path.rglob("*")) is not left_out


def test_a_session_still_has_a_bare_one_within_that_runs_alike(tmp_path: Path) -> None:
    folder = toybundle.write(tmp_path)
    session = ort.InferenceSession(folder / "encode.onnx", providers=["CPUExecutionProvider"])
    inputs = {"image": np.full((2, 4, 3, 1), 9, np.uint8)}
    (expected,) = session.run(["code"], inputs)
    (found,) = bare_run.run(session, ["code"], inputs, ort.RunOptions())
    assert np.array_equal(found, expected)


def test_want_of_memory_still_has_no_type_but_the_words_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "zeros.onnx"
    n, zeros = (
        helper.make_tensor_value_info(name, kind, [None])
        for name, kind in (("n", TensorProto.INT64), ("zeros", TensorProto.FLOAT))
    )
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["zeros"])]
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "zeros", [n], [zeros]), opset_imports=opsets, ir_version=8), path
    )
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    # More than any machine has.
    with pytest.raises(Exception, match="allocate") as failure:
        session.run(["zeros"], {"n": np.array([10**13])})
    assert not isinstance(failure.value, MemoryError)
    assert "memory" not in type(failure.value).__name__.lower()
    assert out_of_memory(failure.value)
    assert (requested_bytes(failure.value) or 0) >= 10**13
