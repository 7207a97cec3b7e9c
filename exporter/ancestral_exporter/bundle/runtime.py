"""Runs the graphs of a bundle through onnxruntime on the CPU, as the server would: by role and by meaning."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.bundle import rules
from ancestral.bundle.dtypes import ONNX_NAMES
from ancestral.v1 import bundle_pb2, tensor_pb2

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import: it would write to the user's cache

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

# What a run is ended with that cannot do with its inputs.
RUN_FAILURES = (states.InvalidArgument, states.Fail, states.RuntimeException)

# What a raster program reads and writes row by row; anything else has one value per image.
ROWWISE = frozenset(
    {
        bundle_pb2.MEANING_GIVEN,
        bundle_pb2.MEANING_KNOWN,
        bundle_pb2.MEANING_UNIFORMS,
        bundle_pb2.MEANING_ROW,
    }
)


def open_session(graph: Path) -> Any:
    """An onnxruntime session on the CPU that sleeps, and does not spin, between runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, and need not stand on stderr besides
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def run_role(session: Any, role: bundle_pb2.Role, feeds: Mapping[str, Array], height: int) -> Arrays:
    """One role's outputs by name; those of a raster role are whole images, as are its feeds (see `Golden`)."""
    if role.program == bundle_pb2.PROGRAM_RASTER:
        return _run_raster(session, role, feeds, height)
    names = [spec.name for spec in role.outputs]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _run_raster(session: Any, role: bundle_pb2.Role, feeds: Mapping[str, Array], height: int) -> Arrays:
    rowwise = {spec.name for spec in role.inputs if spec.meaning in ROWWISE}
    batch = len(next(iter(feeds.values())))
    states = {spec.input: _above_the_image(spec, batch) for spec in role.states}
    names = [spec.name for spec in role.outputs]
    fetched = names + [spec.output for spec in role.states]
    rows: list[list[Array]] = []
    for row in range(height):
        now = {k: np.ascontiguousarray(v[:, row]) if k in rowwise else v for k, v in feeds.items()}
        results = session.run(fetched, now | {name: kept[0] for name, kept in states.items()})
        rows.append(results[: len(names)])
        for kept, newest in zip(states.values(), results[len(names) :], strict=True):
            kept.append(newest)
    outputs: Arrays = {}
    for spec, values in zip(role.outputs, zip(*rows, strict=True), strict=True):
        # Row by row as the server does: np.sum's order depends on how many images there are.
        outputs[spec.name] = np.stack(values, axis=1) if spec.meaning in ROWWISE else reduce(np.add, values)
    return outputs


def _above_the_image(state: bundle_pb2.StateSpec, batch: int) -> deque[Array]:
    """The rows of a state that are still to be read at the top row, oldest first: zeros. One more drops the oldest."""
    back = rules.rows_back(state)
    return deque([np.zeros((batch, *state.shape), np.float32)] * back, maxlen=back)


def signature_problems(session: Any, role: bundle_pb2.Role) -> list[str]:
    """Where the manifest's tensors and the graph's disagree, one sentence each."""
    problems = []
    have_inputs = {node.name: node for node in session.get_inputs()}
    have_outputs = {node.name: node for node in session.get_outputs()}
    float32 = tensor_pb2.DATA_TYPE_FLOAT32
    inputs = [(s.name, s.dtype, s.shape) for s in role.inputs] + [(s.input, float32, s.shape) for s in role.states]
    outputs = [(s.name, s.dtype, s.shape) for s in role.outputs] + [(s.output, float32, s.shape) for s in role.states]
    for kind, wanted, have in (("input", inputs, have_inputs), ("output", outputs, have_outputs)):
        for name, dtype, shape in wanted:
            if name not in have:
                problems.append(f"{role.graph} has no {kind} {name!r} (role {role.name})")
                continue
            got = (have[name].type, list(have[name].shape)[1:])
            if got != (_onnx_type(dtype), list(shape)):
                says = f"role {role.name} says {_onnx_type(dtype)} {list(shape)}"
                problems.append(f"{role.graph} {kind} {name!r} is {got[0]} {got[1]} per image; {says}")
    unfed = have_inputs.keys() - {name for name, _, _ in inputs}
    problems += [f"{role.graph} needs input {name!r}, which role {role.name} does not list" for name in sorted(unfed)]
    return problems


def _onnx_type(dtype: int) -> str:
    return ONNX_NAMES.get(dtype, f"tensor(dtype {dtype})")
