"""How a command is traced where its caller asks for it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

import typer

from ancestral_client import errors, tracing

# OpenTelemetry's own, which hold for all programs.
COLLECTORS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def trace(context: typer.Context, collector: str) -> None:
    """Have the command traced, to a collector that the variables of all programs name, or `--otlp` of this one."""
    source = context.get_parameter_source("otlp")
    asked = source is None or source.name != "ENVIRONMENT"
    if not asked and not (tracing.installed() and _by_otlp(os.environ)):
        return  # whoever set them need not have thought of this program
    # What does not arrive is told in one line, and not at each attempt.
    logger, handler = logging.getLogger("opentelemetry"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ancestral: the trace is lost: %(message)s"))
    handler.setLevel(logging.ERROR)
    logger.handlers[:], logger.propagate = [handler], False
    try:
        name = f"ancestral {context.invoked_subcommand}"
        trace_id = context.with_resource(tracing.traced(name, collector, os.environ))
    except errors.InvalidArgument as wrong:
        problem = wrong.violations[0].problem
        if asked:
            raise errors.invalid("--otlp", problem) from wrong
        variable = next(name for name in COLLECTORS if os.environ.get(name))
        print(f"ancestral: the command is not traced: {variable}: {problem}", file=sys.stderr)
        return
    if asked:
        print(f"ancestral: trace {trace_id}", file=sys.stderr)


def _by_otlp(environment: Mapping[str, str]) -> bool:
    """Whether the variables of all programs say that traces are sent as we do."""
    protocol = next(filter(None, map(environment.get, _PROTOCOLS)), "grpc")
    return protocol == "grpc" and environment.get("OTEL_TRACES_EXPORTER") in (None, "", "otlp")
