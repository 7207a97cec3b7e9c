"""Replaying a bundle's recorded answers: a version that answers wrongly must not serve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ancestral.bundle import rules
from ancestral.bundle.ties import partings
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError, OutOfMemory, Overdue
from ancestral_server.runtime.program import BY_ROW, Meaning, OneShotProgram, Program, RasterProgram

if TYPE_CHECKING:  # what launches kernels needs no onnxruntime
    from ancestral_server.runtime.bundle import Bundle
    from ancestral_server.runtime.session import Array


def replay(bundle: Bundle, programs: dict[str, Program]) -> None:
    """Run every role on its recorded inputs; BundleError names the graph, the tensor and the worst difference."""
    arrays, golden = bundle.golden(), bundle.manifest.golden
    for program in programs.values():
        role = program.role
        inputs, expected = recorded(role, arrays, golden.path)
        try:
            if isinstance(program, OneShotProgram):
                got = program.run(inputs, list(expected))
            else:
                assert isinstance(program, RasterProgram)
                got = replay_raster(program, inputs)
        except (BundleError, OutOfMemory, MemoryError, Overdue):
            raise
        except Exception as error:
            raise BundleError(role.graph, f"role {role.name}: the golden replay failed: {error}") from error
        judge(golden, program, inputs, got, expected)


def recorded(
    role: bundle_pb2.Role, arrays: Mapping[str, Array], path: str
) -> tuple[dict[Meaning, Array], dict[Meaning, Array]]:
    """A role's recorded inputs and outputs, by meaning; BundleError names the file at `path` if one is not there."""

    def found(side: str, tensors: Iterable[bundle_pb2.TensorSpec]) -> dict[Meaning, Array]:
        return {tensor.meaning: _array(arrays, f"{role.name}/{side}/{tensor.name}", path) for tensor in tensors}

    return found("in", role.inputs), found("out", role.outputs)


def judge(
    golden: bundle_pb2.Golden,
    program: Program,
    inputs: Mapping[Meaning, Array],
    got: Mapping[Meaning, Array],
    expected: Mapping[Meaning, Array],
) -> None:
    """BundleError, with the difference, unless a program gave what was recorded; samples may part by a rounding."""
    role = program.role
    for meaning, wanted in expected.items():
        _check_type(role, program.outputs[meaning], got[meaning], wanted)
    try:
        for meaning, wanted in expected.items():
            _compare(golden, role, program.outputs[meaning], got[meaning], wanted)
    except BundleError:
        fine = None if isinstance(program, OneShotProgram) else _apart_from_ties(program, inputs, got, expected)
        if fine is None:
            raise
        for meaning, wanted in expected.items():
            _compare(golden, role, program.outputs[meaning], got[meaning][fine], wanted[fine])


def replay_raster(program: RasterProgram, inputs: Mapping[Meaning, Array]) -> dict[Meaning, Array]:
    """Paint whole images from whole-image inputs ([B,H,W,C]; temperature and label [B]) row by row. ValueError if an
    input has another shape or type.
    """
    batch = len(inputs[bundle_pb2.MEANING_TEMPERATURE])
    for meaning, array in inputs.items():
        blank = program.blank(meaning, batch)
        shape = (batch, *program.image_shape) if meaning in BY_ROW else blank.shape
        if (array.shape, array.dtype) != (shape, blank.dtype):
            name = program.inputs[meaning].name
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, must be {blank.dtype}{list(shape)}")
    painting = program.painting(batch)
    painting.place(np.arange(batch), inputs)
    images = np.zeros((batch, *program.image_shape), np.uint8)
    total = np.zeros(batch, np.float32)
    for r in range(program.image_shape[0]):
        painting.begin_row(np.full(batch, r), [batch])
        images[:, r], likelihood = painting.end_row()
        if likelihood is not None:
            total += likelihood
    return {bundle_pb2.MEANING_ROW: images, bundle_pb2.MEANING_LOG_LIKELIHOOD: total}


def check_labels(program: Program) -> None:
    """Run a program once for its first and its last class; BundleError if it has not as many as the manifest says."""
    if bundle_pb2.MEANING_LABEL not in program.inputs:
        return
    inputs = {meaning: program.blank(meaning, 2) for meaning in program.inputs}
    inputs[bundle_pb2.MEANING_LABEL][1] = program.label_count - 1
    try:
        if isinstance(program, RasterProgram):
            painting = program.painting(2)
            painting.place(np.arange(2), {bundle_pb2.MEANING_LABEL: inputs[bundle_pb2.MEANING_LABEL]})
            painting.begin_row(np.zeros(2, np.int64), [2])
            painting.end_row()
        else:
            assert isinstance(program, OneShotProgram)
            program.run(inputs, list(program.outputs))
    except Overdue:
        raise
    except RuntimeError as error:
        raise BundleError(
            program.role.graph,
            f"role {program.role.name}: label_count is {program.label_count}, and a run with label "
            f"{program.label_count - 1} fails: {error}",
        ) from error


def _array(arrays: Mapping[str, Array], key: str, path: str) -> Array:
    if key not in arrays:
        raise BundleError(path, f"has no array {key!r}")
    if not arrays[key].size:
        raise BundleError(path, f"array {key!r} is empty, so that it verifies nothing")
    return arrays[key]


def _apart_from_ties(
    program: Program,
    inputs: Mapping[Meaning, Array],
    got: Mapping[Meaning, Array],
    wanted: Mapping[Meaning, Array],
) -> Array | None:
    """Which samples [B] are as recorded, where the others part ways by a rounding; else None."""
    assert isinstance(program, RasterProgram)
    row = bundle_pb2.MEANING_ROW
    fine = np.ones(len(got[row]), np.bool_)
    for parting in partings(lambda given: replay_raster(program, given)[row], inputs, got[row], wanted[row]):
        if parting.within is None:
            return None
        fine[parting.sample] = False
    return fine


def _where(role: bundle_pb2.Role, spec: bundle_pb2.TensorSpec) -> str:
    return f"role {role.name}: the golden replay differs: {spec.name}"


def _check_type(role: bundle_pb2.Role, spec: bundle_pb2.TensorSpec, got: Array, wanted: Array) -> None:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise BundleError(
            role.graph,
            f"{_where(role, spec)} is {got.dtype}{list(got.shape)}, recorded {wanted.dtype}{list(wanted.shape)}",
        )


def _compare(
    golden: bundle_pb2.Golden, role: bundle_pb2.Role, spec: bundle_pb2.TensorSpec, got: Array, wanted: Array
) -> None:
    where = _where(role, spec)
    if np.issubdtype(got.dtype, np.floating):
        excess = np.abs(got - wanted) - golden.tolerance * (rules.unit(spec.meaning) + np.abs(wanted))
        # Written so that NaN fails.
        if not bool((excess <= 0).all()):
            worst = float(np.nanmax(np.abs(got - wanted))) if not np.isnan(got - wanted).all() else float("nan")
            raise BundleError(role.graph, f"{where} is off by up to {worst:.3g}, more than {golden.tolerance:.3g}")
    else:
        differing = int(np.count_nonzero(got != wanted))
        share, roundings = differing / max(1, got.size), rules.roundings(spec.meaning) if golden.pixel_tolerance else 0
        if share > golden.pixel_tolerance and differing > roundings:
            raise BundleError(role.graph, f"{where}: {share:.2%} of its values, more than {golden.pixel_tolerance:.2%}")
