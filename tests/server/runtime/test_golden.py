"""What of a recorded answer may be another here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError
from ancestral_server.runtime.golden import judge
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Runtime


@pytest.mark.parametrize(
    ("wrong", "pixel_tolerance", "refused"),
    [
        pytest.param(1, 0.002, False, id="one byte of few is a rounding"),
        pytest.param(2, 0.002, True, id="two are not"),
        pytest.param(1, 0.0, True, id="none where none may differ"),
    ],
)
def test_a_byte_of_an_image_may_lie_at_a_threshold(
    tmp_path: Path, wrong: int, pixel_tolerance: float, refused: bool
) -> None:
    """The model gives the image that it is given."""
    image = toybundle.IMAGE
    given, returned = (
        helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, ["batch", *image.shape])
        for name in (image.name, "same")
    )
    graph = helper.make_graph([helper.make_node("Identity", [image.name], ["same"])], "same", [given], [returned])
    path = tmp_path / "same.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    same = toybundle.spec("same", bundle_pb2.MEANING_IMAGE, toybundle.U8, *image.shape)
    role = bundle_pb2.Role(
        name="decode", program=bundle_pb2.PROGRAM_ONE_SHOT, graph=path.name, inputs=[image], outputs=[same]
    )
    program = OneShotProgram(role, Runtime("cpu", 1).open(path), bundle_pb2.Bundle())
    images = np.full((3, *image.shape), 127, np.uint8)
    recorded = images.copy()
    recorded.reshape(-1)[:wrong] -= 1
    golden = bundle_pb2.Golden(tolerance=1e-4, pixel_tolerance=pixel_tolerance)
    got = program.run({bundle_pb2.MEANING_IMAGE: images}, [bundle_pb2.MEANING_IMAGE])

    def judged() -> None:
        judge(golden, program, {bundle_pb2.MEANING_IMAGE: images}, got, {bundle_pb2.MEANING_IMAGE: recorded})

    if refused:
        with pytest.raises(BundleError, match=r"golden replay differs: same: .* of its values"):
            judged()
    else:
        judged()
