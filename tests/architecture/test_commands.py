"""What all commands have in common: their version, their help, what they say without their extra."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from running import ServerProcess

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
Run = Callable[..., "tuple[int, str, str]"]
EXTRAS = {
    "ancestral": "client",
    "ancestral-server": "server",
    "ancestral-exporter": "exporter",
    "ancestral-demo": "demo",
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs what the installed command runs, in this process: its exit code, and what it said."""

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        (script,) = metadata.entry_points(group="console_scripts", name=command)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as ended:
            script.load()()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_these_are_all_commands() -> None:
    assert PROJECT["scripts"].keys() == EXTRAS.keys()


@pytest.mark.parametrize("command", EXTRAS)
def test_every_command_tells_the_version_of_the_package(run: Run, command: str) -> None:
    assert run(command, "--version") == (0, f"{command} {PROJECT['version']}\n", "")


def test_the_installed_version_is_the_one_in_pyproject() -> None:
    assert metadata.version("ancestral") == PROJECT["version"], "install again: make install"


def test_the_server_tells_its_version_where_it_is_asked(toy_server: ServerProcess) -> None:
    assert toy_server.metric("ancestral_server_info", version=PROJECT["version"]) == 1


def test_a_version_stands_in_one_place_only() -> None:
    version = re.compile(rf"\b{re.escape(PROJECT['version'])}\b")
    found = [
        str(path.relative_to(ROOT))
        for part in ("server", "exporter", "clients", "protos/ancestral")
        for path in (ROOT / part).rglob("*.py")
        if version.search(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "arguments",
    [
        *((command,) for command in EXTRAS),
        ("ancestral", "sample"),
        *(
            ("ancestral", name)
            for name in ("models", "bulk", "encode", "reconstruct", "traverse", "manifold", "doctor", "bench", "studio")
        ),
        ("ancestral-exporter", "train"),
        ("ancestral-exporter", "import"),
        ("ancestral-exporter", "import", "onnx"),
        ("ancestral-exporter", "import", "diffusers"),
        ("ancestral-demo", "serve"),
        ("ancestral-demo", "studio"),
    ],
    ids=" ".join,
)
def test_help_speaks_to_people(run: Run, arguments: tuple[str, ...]) -> None:
    code, text, problems = run(*arguments, "--help")
    assert (code, problems) == (0, "")
    assert "--help" in text
    # The type of what takes no value, and the name of a function.
    assert "bool" not in text
    assert "factory" not in text


def without(command: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process where importing a module fails as if it was not installed."""
    entry, _, function = PROJECT["scripts"][command].partition(":")
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = {[command, *arguments]!r}\n"
        f"from {entry} import {function}; {function}()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("command", "missing", "arguments"),
    [
        ("ancestral", "typer", ()),
        ("ancestral", "grpc", ("--help",)),
        ("ancestral-server", "structlog", ("--version",)),
        ("ancestral-exporter", "typer", ()),
        # What is imported only when it is needed.
        ("ancestral-server", "onnxruntime", ("--models", "models")),
        ("ancestral-exporter", "torch", ("train", "digits-vae", "--models", "models")),
        ("ancestral-demo", "sklearn", ("run",)),
    ],
)
def test_without_its_extra_a_command_says_which_one_it_needs(
    command: str, missing: str, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = without(command, missing, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"{command}: needs {missing}, which is not installed: pip install 'ancestral[{EXTRAS[command]}]'\n"
    )


def test_without_its_extra_the_studio_says_which_one_it_needs() -> None:
    done = without("ancestral", "nicegui", "studio")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ancestral studio: needs nicegui, which is not installed: pip install 'ancestral[studio]'\n"


def test_a_module_of_our_own_that_is_missing_is_a_fault_and_no_missing_extra() -> None:
    done = without("ancestral-server", "ancestral_server.app", "--models", ".")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
