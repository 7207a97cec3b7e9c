"""pyproject.toml, requirements.lock and what is installed agree; each part stays free of what it must not need."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distributions import closure

ROOT = Path(__file__).parents[2]


def locked() -> dict[str, str]:
    """The versions in requirements.lock that are for this machine."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }


def test_what_is_installed_is_what_is_locked() -> None:
    installed = {}
    for name, version in locked().items():
        try:
            installed[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            installed[name] = "missing"
        # An epoch stands before the exclamation mark.
        assert re.fullmatch(r"([0-9]+!)?[0-9][0-9a-z.]*", version), f"{name} is not pinned: {version}"
    assert installed == locked()


def test_the_lock_holds_all_that_is_needed() -> None:
    missing = (closure("dev") | {"hatchling", "editables"}) - locked().keys()
    # What torch needs depends on the build that pip finds; only the CPU build's needs are locked.
    assert {name for name in missing if not name.startswith(("nvidia-", "triton", "cuda-"))} <= {"setuptools"}


def test_the_lock_is_within_the_bounds_of_pyproject() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in (line for lines in extras.values() for line in lines):
        requirement = Requirement(text)
        version = locked().get(canonicalize_name(requirement.name))
        if version is not None:
            assert requirement.specifier.contains(version), text


@pytest.mark.parametrize("extra", ["client", "server", "demo"])
def test_no_part_but_the_exporter_needs_torch(extra: str) -> None:
    assert not closure(extra) & {"torch", "lightning", "onnx", "onnxscript"}


def test_the_client_is_light() -> None:
    assert not closure("client") & {"onnxruntime-gpu", "onnxruntime", "prometheus-client", "scikit-learn"}


def test_the_server_needs_no_part_of_the_client() -> None:
    assert not closure("server") & {"typer", "pillow", "scikit-learn", "matplotlib"}


def test_torch_is_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (torch,) = (line for line in extras["exporter"] if line.startswith("torch"))
    assert torch == f"torch=={locked()['torch']}"


def test_what_users_run_needs_nothing_of_the_checks_and_tests() -> None:
    needed = closure("client,server,exporter,demo")
    assert {"torch", "onnxruntime-gpu", "rich"} <= needed
    for_checks = {"pytest", "mypy", "ruff", "hypothesis", "grpcio-tools", "ray", "nicegui", "playwright"}
    assert not needed & {*for_checks, "opentelemetry-sdk", "cuda-bindings", "cryptography", "grafana-foundation-sdk"}
