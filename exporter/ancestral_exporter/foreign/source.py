"""An ONNX file of somebody else: read, looked at, and run as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ancestral.text import one_line, shown
from ancestral_exporter.bundle.runtime import RUN_FAILURES, Array, Arrays, open_session
from ancestral_exporter.errors import ExporterError, UsageError

# Operators that onnxruntime has without a library of somebody's own.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "org.pytorch.aten"})
# Element types of an input that numbers may be put into.
_DTYPES: dict[str, type[Any]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


@dataclass(frozen=True)
class Source:
    """The file, its graph with all weights, and a session of it as it lies there."""

    path: Path
    model: onnx.ModelProto
    session: Any

    @property
    def input(self) -> str:
        return str(self.session.get_inputs()[0].name)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_DTYPES[self.session.get_inputs()[0].type])

    @property
    def batch(self) -> int | None:
        """The one batch size that the file takes; None where it is free."""
        size = self.session.get_inputs()[0].shape[0]
        return size if isinstance(size, int) else None

    @property
    def sizes(self) -> list[int | None]:
        """Of the input, without its batch axis; None where the file leaves one open."""
        return [size if isinstance(size, int) else None for size in self.session.get_inputs()[0].shape[1:]]

    @property
    def outputs(self) -> list[str]:
        return [node.name for node in self.session.get_outputs()]

    @property
    def listed(self) -> str:
        """The outputs in words."""
        return _listed(self.session.get_outputs())

    def run(self, values: Array, names: Sequence[str]) -> Arrays:
        """The file's answers, to one of `values` at a time: a fixed batch is filled with the same one."""
        rows = []
        for value in values:
            batch = np.repeat(value[None], self.batch or 1, axis=0)
            try:
                answers = self.session.run(list(names), {self.input: batch})
            except RUN_FAILURES as error:
                raise ExporterError(f"{self.path}: fails on {list(batch.shape)}: {one_line(error)}") from error
            for name, answer in zip(names, answers, strict=True):
                if not isinstance(answer, np.ndarray) or answer.ndim == 0 or len(answer) != len(batch):
                    what = list(answer.shape) if isinstance(answer, np.ndarray) else type(answer).__name__
                    raise ExporterError(
                        f"{self.path}: output {name!r} is {what} for {len(batch)} images; its first axis must be theirs"
                    )
            rows.append([answer[:1] for answer in answers])
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}


def read_source(path: Path) -> Source:
    """Raises UsageError or ExporterError, in one line, for what is no graph of one numeric input."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    try:
        model = onnx.load(str(path))
        domains = {entry.domain for entry in model.opset_import}
        if not model.graph.node or not domains:
            raise DecodeError("it has no graph")
    except (DecodeError, ValueError) as error:
        raise UsageError(f"{path}: is no ONNX file: {one_line(error)}") from error
    except OSError as error:
        raise UsageError(f"{path}: its weights lie in a file of their own: {one_line(error)}") from error
    except onnx.checker.ValidationError as error:  # external data that is missing or leads out of the folder
        raise UsageError(f"{path}: {one_line(error)}") from error
    own = {function.domain for function in model.functions}
    foreign = [node for node in model.graph.node if node.domain not in _DOMAINS | own]
    if foreign:
        names = sorted({f"{node.domain}.{node.op_type}" for node in foreign})
        raise ExporterError(f"{path}: has operators that onnxruntime does not know: {', '.join(names[:5])}")
    try:
        session = open_session(path)
    except Exception as error:  # onnxruntime raises many kinds
        raise ExporterError(f"{path}: onnxruntime does not load it: {one_line(error)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ExporterError(
            f"{path}: must have one input, the image or the latent; it has {len(inputs)}: {_listed(inputs)}"
        )
    if inputs[0].type not in _DTYPES:
        raise ExporterError(f"{path}: input {inputs[0].name!r} is {inputs[0].type}, must be floats or uint8")
    names = [node.name for node in session.get_outputs()]
    if not names or len(set(names)) < len(names):
        raise ExporterError(f"{path}: {'two of its outputs have one name' if names else 'has no output'}")
    if not inputs[0].shape:
        raise ExporterError(
            f"{path}: input {inputs[0].name!r} has no axes: export the file with the shape of its input"
        )
    return Source(path, model, session)


def _listed(nodes: Sequence[Any]) -> str:
    return ", ".join(f"{shown(node.name)} {describe(node)}" for node in nodes)


def describe(node: Any) -> str:
    """Type and shape of an input or output of a session: float [N,3,224,224]."""
    sizes = ",".join(str(size) if isinstance(size, int) else shown(size or "?") for size in node.shape)
    return f"{node.type.removeprefix('tensor(').removesuffix(')')} [{sizes}]"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
