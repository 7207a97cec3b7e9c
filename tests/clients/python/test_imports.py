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


@pytest.mark.parametrize("module", ["ancestral_client", "ancestral_client.testing"])
def test_importing_the_client_imports_nothing_that_a_call_does_not_need(module: str) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500, check=True)
    assert not set(done.stdout.split()) & UNWANTED
    assert {"numpy", "grpc"} <= set(done.stdout.split())
