"""Element types of tensors: the contract's numbers, numpy's types, ONNX's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from ancestral.v1 import tensor_pb2

# Little-endian, as the wire is.
DTYPES: dict[int, np.dtype[Any]] = {
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
}
NUMBERS: dict[np.dtype[Any], tensor_pb2.DataType.ValueType] = {
    dtype: tensor_pb2.DataType.ValueType(number) for number, dtype in DTYPES.items()
}
# What onnxruntime calls a tensor of each.
ONNX_NAMES: dict[int, str] = {
    number: f"tensor({'float' if dtype.kind == 'f' else dtype.name})" for number, dtype in DTYPES.items()
}
