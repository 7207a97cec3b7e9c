"""The script itself, rehearsed on the CPU; what it says of a GPU only a GPU can test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fakecuda
import toybundle
from fakecuda import FakeCuda

SCRIPT = Path(__file__).with_name("gpu_check.py")


def check(*flags: str) -> subprocess.CompletedProcess[str]:
    root = SCRIPT.parents[2]
    path = os.pathsep.join(str(root / part) for part in ("protos", "server"))
    command = [sys.executable, str(SCRIPT), *flags]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, env=environment)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a GPU")
def test_without_a_gpu_it_claims_nothing(tmp_path: Path) -> None:
    result = check("--out", str(tmp_path / "report"))
    assert result.returncode == 0
    assert "no usable GPU" in result.stdout
    assert "nothing is claimed" in result.stdout
    assert not list(tmp_path.iterdir())


def test_the_report_has_every_role_of_the_newest_version_of_every_bundle(tmp_path: Path) -> None:
    toybundle.write(tmp_path / "models", "tally")
    toybundle.write(tmp_path / "models", "tally", 2)
    toybundle.write(tmp_path / "models", "other")
    rehearse = ("--device", "cpu", "--quick", "--models", str(tmp_path / "models"))
    result = check(*rehearse, "--out", str(tmp_path / "report"))
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [r["role"] for r in report["results"]] == ["encode", "score", "sample"] * 2
    assert all(r["passed"] and r["float_difference"] == r["batch_difference"] == 0 for r in report["results"])
    text = (tmp_path / "report.md").read_text()
    # A line for each role, and one for the server's rates.
    assert text.count("| other/1 |") == text.count("| tally/2 |") == 4


def test_a_role_that_answers_wrongly_fails_the_check(tmp_path: Path) -> None:
    toybundle.write(tmp_path / "models", "digits-tally", scale=200.0)
    rehearse = ("--device", "cpu", "--quick", "--models", str(tmp_path / "models"))
    result = check(*rehearse, "--out", str(tmp_path / "report"))
    assert result.returncode == 1
    assert "golden replay differs" in result.stdout


def test_a_part_that_takes_too_long_is_ended_and_the_others_are_run(tmp_path: Path) -> None:
    toybundle.write(tmp_path / "models", "tally")
    rehearse = ("--device", "cpu", "--quick", "--models", str(tmp_path / "models"), "--seconds", "0.01")
    result = check(*rehearse, "--out", str(tmp_path / "report"))
    assert result.returncode == 1
    assert (tmp_path / "report.md").read_text().count("not done after 0.01 s (--seconds)") == 4


def test_kernels_are_checked_first_and_what_is_wrong_with_one_fails_the_check(
    tmp_path: Path, fake_cuda: FakeCuda
) -> None:
    """On a GPU that is none: the script is rehearsed, and says nothing of any."""
    models = tmp_path / "models"
    fakecuda.add_kernel(toybundle.write(models, "right"), fake_cuda)
    rehearse = ("--device", "cpu", "--driver", str(fake_cuda.driver), "--quick", "--models", str(models))
    result = check(*rehearse, "--out", str(tmp_path / "right"))
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "right.json").read_text())
    (kernel,) = report["kernels"]
    assert not kernel["problems"]
    assert [each["variant"] for each in kernel["variants"]] == [
        f"{target}, {samples} to a block" for target in ("sm_90", "compute_80") for samples in (1, 4)
    ]
    assert [(each["model"], each["form"]) for each in report["server"]] == [("right/1", "kernel")]
    times, first, last = report["server"][0]["reloads"]
    assert times == 2
    assert first == last

    fakecuda.add_kernel(toybundle.write(models, "wrong"), fake_cuda, "b")
    result = check(*rehearse, "--out", str(tmp_path / "wrong"), "--part", "kernels")
    assert result.returncode == 1, result.stderr
    assert "- wrong/1: FAILED sm_90, 1 to a block: bytes of 7 of 40 samples differ alone" in result.stdout
    assert "- right/1: FAILED" not in result.stdout
