"""A sample may part ways with what was recorded at a tie and nowhere else, both when verified and when served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle import verify_bundle
from ancestral_server.errors import BundleError
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.golden import replay
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.session import Runtime


# Above 1e-5: what sums over 256 levels were seen to differ by.
@pytest.mark.parametrize(("margin", "fine"), [(3e-7, True), (8e-6, True), (2e-5, True), (1e-3, False)])
def test_what_verify_passes_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: float, fine: bool
) -> None:
    arrays = toybundle.golden()
    # At the second value of the second image it paints black, if barely; whoever
    # recorded it painted white, and went on otherwise.
    uniforms = arrays["sample/in/uniforms"]
    uniforms[1] = 0.25
    recorded = uniforms.copy()
    uniforms[1, 0, 1] = np.float32(0.5 + margin)
    arrays["sample/out/row"], arrays["sample/out/log_likelihood"] = toybundle.paint(recorded)
    monkeypatch.setattr(toybundle, "golden", lambda *_: arrays)
    folder = toybundle.write(tmp_path)

    report = verify_bundle(folder)
    assert "sample 1: first differs at [0, 1, 0]" in str(report)
    # The toy's scores are not the likelihoods of its samples, which is another check.
    verified = all(check.ok for check in report.checks if "sample recorded" in check.subject)
    bundle = read_bundle(folder)
    (role,) = (role for role in bundle.manifest.roles if role.program == bundle_pb2.PROGRAM_RASTER)
    program = OnnxRasterProgram(role, Runtime("cpu", 1).open(bundle.graph(role)), bundle.manifest)
    assert verified is fine
    if fine:
        replay(bundle, {"sample": program})
    else:
        with pytest.raises(BundleError, match=r"sample\.onnx: role sample: the golden replay differs: row"):
            replay(bundle, {"sample": program})
