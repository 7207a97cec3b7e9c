"""What is installed with an extra of `ancestral` only, and is looked for before it is needed."""

from __future__ import annotations

from importlib.util import find_spec

from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings


def check(settings: Settings) -> None:
    """StartupError if a setting needs what is not installed."""
    if settings.otlp_endpoint and not all(map(_there, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc"))):
        raise StartupError(
            f"--otlp-endpoint {settings.otlp_endpoint}: tracing is not installed: pip install 'ancestral[tracing]'"
        )


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is what it is part of
        return False
