from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ancestral.v1 import tensor_pb2
from ancestral_client import _wire

ARRAYS = st.sampled_from([np.uint8, np.bool_, np.int32, np.int64, np.float32]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(ARRAYS)
def test_an_array_survives_the_wire(array: np.ndarray[Any, Any]) -> None:
    tensor = tensor_pb2.Tensor.FromString(_wire.pack(array).SerializeToString())
    back = _wire.unpack(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_the_wire_is_row_major_whatever_the_array_is() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert np.array_equal(_wire.unpack(_wire.pack(array)), array)
