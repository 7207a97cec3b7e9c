"""What is not installed is named, with what to do, before anything begins."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from ancestral_server import extras
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings

COLLECTOR = "http://localhost:4317"


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"])
def test_a_collector_needs_what_sends_to_it(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        """As of an environment that lacks one of them."""
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(name)
        return None if name == missing else ModuleSpec(name, None)

    monkeypatch.setattr(extras, "find_spec", find)
    extras.check(Settings(models=tmp_path))
    with pytest.raises(StartupError) as told:
        extras.check(Settings(models=tmp_path, otlp_endpoint=COLLECTOR))
    assert str(told.value) == f"--otlp-endpoint {COLLECTOR}: tracing is not installed: pip install 'ancestral[tracing]'"
