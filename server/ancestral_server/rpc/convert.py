"""Protos to domain arrays and back, and the checks of what a caller sent that messages share.

Each function takes the field's path in the request, so that an error names the field, the value and the limit.
Letters: N images, H, W, C image axes, Z latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ancestral.bundle.dtypes import DTYPES, NUMBERS
from ancestral.bundle.rules import NAME
from ancestral.text import short
from ancestral.v1 import bundle_pb2, priority_pb2, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.engine.job import Priority
from ancestral_server.errors import InvalidArgument
from ancestral_server.runtime.session import Array
from ancestral_server.settings import Settings

# A seed is an int64 in the protos, and must not be negative.
MAX_SEED = 2**63 - 1
# Samples are all but uniform noise long before it; 100 is a guess at what nobody exceeds on purpose.
MAX_TEMPERATURE = 100.0
# Names of models have at most 64 characters; what is much longer is refused before it is looked for.
MAX_NAME = 256
# Arrays of a manifest have at most 8 axes beside N; what has many more is refused before its shape is multiplied out.
MAX_AXES = 16

_PRIORITIES: dict[int, Priority] = {
    priority_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    priority_pb2.PRIORITY_BATCH: Priority.BATCH,
}


class Limit(NamedTuple):
    """The most of something, and what sets it, for whoever is refused."""

    most: int
    setting: str

    @staticmethod
    def of(settings: Settings, name: str) -> Limit:
        """That of a setting, by its name there."""
        return Limit(getattr(settings, name), f"the server's --{name.replace('_', '-')}")

    def __str__(self) -> str:
        return f"{self.most} ({self.setting})"


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """What a tensor of a request has to be: [N, *shape] of a type, 1 <= N <= limit."""

    number: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    limit: Limit
    row_bytes: int
    # Whether any bytes are elements of the type.
    any_bytes: bool

    @staticmethod
    def of(spec: bundle_pb2.TensorSpec, limit: Limit) -> BatchCheck:
        """That of a tensor of the manifest."""
        return BatchCheck.made(spec.dtype, tuple(spec.shape), limit)

    @staticmethod
    def made(number: int, shape: tuple[int, ...], limit: Limit) -> BatchCheck:
        """That of a tensor of a type of the wire."""
        dtype = DTYPES[number]
        return BatchCheck(number, dtype, shape, limit, math.prod(shape) * dtype.itemsize, dtype.kind not in "bf")

    def array(self, field: str, tensor: tensor_pb2.Tensor) -> Array:
        """The array [N, *shape] of a tensor that is what it has to be; not to be written to."""
        # All at once, as nearly every tensor is right; below is found out what is wrong with one that is not.
        wire_axes, data = tensor.shape, tensor.data
        if self.any_bytes and tensor.dtype == self.number and len(wire_axes) == len(self.shape) + 1:
            shape = tuple(wire_axes[:])
            rows = shape[0]
            if shape[1:] == self.shape and 1 <= rows <= self.limit.most and len(data) == rows * self.row_bytes:
                return np.ndarray(shape, self.dtype, data)
        if tensor.dtype != self.number:
            raise InvalidArgument(
                f"{field}.dtype", f"is {_dtype_name(tensor.dtype)}, must be {_dtype_name(self.number)}"
            )
        shape = axes(f"{field}.shape", wire_axes)
        check_shape(f"{field}.shape", shape, self.shape, self.limit)
        return elements(f"{field}.data", data, self.dtype, shape)


def axes(field: str, shape: Sequence[int]) -> tuple[int, ...]:
    """A shape of any tensor that a role may have: not so long that refusing it would take long."""
    if len(shape) > MAX_AXES:
        raise InvalidArgument(field, f"has {len(shape)} axes, must have at most {MAX_AXES}")
    # A slice, since to iterate over a field of a message takes twice as long.
    return tuple(shape[:])


def check_shape(field: str, shape: tuple[int, ...], wanted: tuple[int, ...], limit: Limit) -> None:
    """Refuse what is not [N, *wanted], 1 <= N <= limit."""
    if len(shape) != len(wanted) + 1 or shape[1:] != wanted:
        raise InvalidArgument(field, f"is {_show(shape)}, must be {_show(('N', *wanted))} with 1 <= N <= {limit}")
    if not 1 <= shape[0] <= limit.most:
        raise InvalidArgument(field, f"has N = {shape[0]}, must be 1 to {limit}")


def elements(field: str, data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
    """The array of that type and shape whose little-endian bytes are `data`."""
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidArgument(field, f"has {len(data)} bytes, shape {_show(shape)} needs {expected}")
    if dtype.kind == "b" and data.translate(None, b"\x00\x01"):
        raise InvalidArgument(field, "holds bytes other than 0 and 1, which are all that a bool can be")
    array: Array = np.ndarray(shape, dtype, data)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidArgument(field, "holds NaN or infinite values, all must be finite")
    return array


def priority(field: str, value: int) -> Priority:
    """That of a request, where it names one."""
    if value not in _PRIORITIES:
        raise InvalidArgument(field, f"is {value}, must be PRIORITY_INTERACTIVE or PRIORITY_BATCH")
    return _PRIORITIES[value]


def seed(field: str, value: int) -> int:
    if not 0 <= value <= MAX_SEED:
        raise InvalidArgument(field, f"is {value}, must be 0 to {MAX_SEED}")
    return value


def count(field: str, value: int, limit: Limit) -> int:
    if not 1 <= value <= limit.most:
        raise InvalidArgument(field, f"is {value}, must be 1 to {limit}")
    return value


def first_index(field: str, value: int, samples: int) -> int:
    limit = MAX_SEED - samples
    if not 0 <= value <= limit:
        raise InvalidArgument(field, f"is {value}, must be 0 to {limit}")
    return value


def temperature(field: str, value: float) -> float:
    # Written so that NaN fails.
    if not 0 <= value <= MAX_TEMPERATURE:
        raise InvalidArgument(field, f"is {value}, must be 0 to {MAX_TEMPERATURE:g}")
    return value


def label(field: str, value: int, classes: int) -> int:
    if not 0 <= value < classes:
        raise InvalidArgument(field, f"is {value}, must be 0 to {classes - 1}")
    return value


def labels(field: str, values: Sequence[int], images: int, classes: int) -> Array | None:
    """Classes [N] int64 of N images, given one for each or one for all; None for a model that has none."""
    if not classes:
        if values:
            raise InvalidArgument(
                field, f"holds {len(values)} classes, must be unset: the model is not class-conditional"
            )
        return None
    if len(values) not in (1, images):
        raise InvalidArgument(field, f"holds {len(values)} classes, must hold 1 or {images}, each 0 to {classes - 1}")
    checked = [label(f"{field}[{i}]", value, classes) for i, value in enumerate(values)]
    return np.resize(np.array(checked, np.int64), images)


def sample_label(field: str, value: int | None, classes: int) -> int:
    """The class to draw from; 0 for a model that has none."""
    if not classes:
        if value is not None:
            raise InvalidArgument(field, f"is {value}, must be unset: the model is not class-conditional")
        return 0
    if value is None:
        raise InvalidArgument(field, f"is not set, must be 0 to {classes - 1}: the model is class-conditional")
    return label(field, value, classes)


_COMPLETES: tuple[tuple[Literal["given", "known"], Literal["given", "known"]], ...] = (
    ("given", "known"),
    ("known", "given"),
)


def completion(
    prefix: str, request: pb.SampleRequest, count: int, image_shape: tuple[int, int, int]
) -> tuple[Array, Array] | None:
    """Given [1 or N,H,W,C] uint8 and known, its mask of the same choice of shapes, bool; None if neither is set."""
    for field, other in _COMPLETES:
        if request.HasField(field) and not request.HasField(other):
            raise InvalidArgument(f"{prefix}{other}", f"is not set, but {field} is: a completion needs both")
    if not request.HasField("given"):
        return None
    arrays = []
    for field, tensor_, dtype in (
        ("given", request.given, tensor_pb2.DATA_TYPE_UINT8),
        ("known", request.known, tensor_pb2.DATA_TYPE_BOOL),
    ):
        check = BatchCheck.made(dtype, image_shape, Limit(count, f"{prefix}count"))
        array = check.array(f"{prefix}{field}", tensor_)
        if len(array) not in (1, count):
            raise InvalidArgument(f"{prefix}{field}.shape", f"has N = {len(array)}, must be 1 or count = {count}")
        arrays.append(array)
    return arrays[0], arrays[1]


def model_name(field: str, value: str) -> str:
    if not value:
        raise InvalidArgument(field, "is empty, must be the name of a model")
    # Errors repeat the name, and have room for so much.
    if len(value) > MAX_NAME:
        raise InvalidArgument(field, f"has {len(value)} characters, must have at most {MAX_NAME}")
    return value


def bundle_name(field: str, value: str) -> str:
    """A name that may become part of a path."""
    if not NAME.fullmatch(value):
        raise InvalidArgument(field, f"is {short(value, 100)!r}, must match {NAME.pattern}")
    return value


def version(field: str, value: int) -> int:
    if value < 0:
        raise InvalidArgument(field, f"is {value}, must be 0 (the highest that is served) or a version >= 1")
    return value


def reply_size(field: str, images: int, image_bytes: int, limit: int) -> None:
    """Refuse before any work what could not be sent back."""
    if images * image_bytes > limit:
        raise InvalidArgument(
            field,
            f"asks for {images} images of {image_bytes} bytes, more than fits a reply of {limit} bytes "
            f"(the server's --max-message-mib): at most {limit // image_bytes}",
        )


def tensor(array: Array) -> tensor_pb2.Tensor:
    """The wire form of an array."""
    wire = tensor_pb2.Tensor()
    fill(wire, array)
    return wire


def fill(wire: tensor_pb2.Tensor, array: Array) -> None:
    """Make an empty tensor, which may be a field of a reply, the wire form of an array: nothing is copied twice."""
    wire.dtype = NUMBERS[array.dtype]
    wire.shape.extend(array.shape)
    wire.data = array.tobytes()


def _dtype_name(number: int) -> str:
    try:
        return tensor_pb2.DataType.Name(number)  # type: ignore[arg-type]
    except ValueError:
        return f"unknown type {number}"


def _show(shape: Sequence[Any]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
