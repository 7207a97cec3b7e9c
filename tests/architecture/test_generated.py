"""What is made from other files is what those files make today."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_the_stubs_are_those_of_the_protos() -> None:
    done = subprocess.run([ROOT / ".ci" / "check-stubs"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_reference_of_the_protos_is_what_their_comments_say() -> None:
    pages: dict[str, Any] = runpy.run_path(str(ROOT / ".ci" / "proto_pages.py"))
    page = pages["page"]()
    assert (ROOT / pages["PAGE"]).read_text() == page, "run 'make generated'"
    for told in (
        "- **ModelStreamInfer**: stream of `ModelInferRequest` → stream of `ModelStreamInferResponse`. Runs models",
        "### ModelMetadataResponse.TensorMetadata\n\nOne tensor.\n",
        "- `parameters` = 4, map of string to `InferParameter`. ",
        "- `seed` = 4, optional int64. Seed, 0 to 2^63 - 1.",
        "- `int64_param` = 2, int64, one of `parameter_choice`. An integer.",
        "- `DATA_TYPE_UINT8` = 1. 8-bit unsigned integer",
    ):
        assert told in page


def test_a_changed_proto_is_noticed(tmp_path: Path) -> None:
    """On a copy, since the real files are others' work too."""
    subprocess.run(["cp", "-r", ROOT / "protos", ROOT / ".ci", tmp_path], check=True)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    proto = tmp_path / "protos" / "ancestral" / "v1" / "timing.proto"
    proto.write_text(proto.read_text().replace("queue_seconds", "waiting_seconds"))
    done = subprocess.run([tmp_path / ".ci" / "check-stubs"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 1
    assert "+    waiting_seconds: _builtins.float" in done.stdout
    assert "make protos" in done.stderr
