"""What `import ancestral_client` costs: a script should not wait for what it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Pictures, commands and data frames are for those who use them; the rest is none of the client's, ever.
UNWANTED = {
    *("PIL", "rich", "typer", "pyarrow", "matplotlib", "sklearn", "scipy", "pandas", "inference"),
    *("torch", "onnxruntime", "onnx", "prometheus_client", "ray", "nicegui", "structlog", "pydantic", "cryptography"),
}


# Together nearly all of the time that an import of a Client takes.
HEAVY = {"numpy", "grpc", "google", "asyncio", "ssl", "ancestral"}


def imported_by(code: str) -> set[str]:
    """The packages that are there after this code."""
    code = f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["from ancestral_client import Client", "import ancestral_client.testing"])
def test_importing_the_client_imports_nothing_that_a_call_does_not_need(code: str) -> None:
    found = imported_by(code)
    assert not found & UNWANTED
    assert {"numpy", "grpc"} <= found


def test_importing_the_package_imports_nothing_until_it_is_asked_for() -> None:
    code = (
        "import ancestral_client; assert 'Client' in dir(ancestral_client); assert not hasattr(ancestral_client, 'x')"
    )
    assert not imported_by(code) & (UNWANTED | HEAVY)


def test_names_and_modules_are_there_where_only_the_package_is_imported() -> None:
    code = (
        "import ancestral_client as a; a.Client; a.errors.NotFound; a.results.Samples; a.tracing; "
        "from ancestral_client import *; assert Client is a.client.Client and NotFound is a.NotFound"
    )
    assert "numpy" in imported_by(code)
