"""What is made from other files is what those files make today."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_stubs_are_those_of_the_protos() -> None:
    done = subprocess.run([ROOT / ".ci" / "check-stubs"], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
