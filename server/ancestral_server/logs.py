"""The server's log, on stderr: lines for people or for machines. What libraries log has the same form."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TextIO, cast

import structlog

from ancestral_server.settings import LogFormat

_STAMP = structlog.processors.TimeStamper(fmt="iso", utc=True)


class _Stderr:
    """stderr, as the log's file. Where a line cannot be written (the disk is full, its reader has gone) it is lost, and
    not the call or the model that it tells of.
    """

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def configure(wanted: LogFormat) -> None:
    file = cast(TextIO, _Stderr())
    told: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _STAMP,
    ]
    shown: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=coloured(os.environ, terminal=sys.stderr.isatty()))]
        if _for_people(wanted)
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*told, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        # In one write with its end: several processes share stderr, and an unbuffered one would mix their lines.
        logger_factory=structlog.WriteLoggerFactory(file),
    )
    # asyncio and grpc report by Python's own logging.
    handler = logging.StreamHandler(file)
    clean = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=told, processors=[clean, *shown]))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(True)


def announce(wanted: LogFormat, event: str) -> None:
    """Print the one line on stdout, which others wait for: as it is for people, as an event beside a log for machines.

    Serving matters more than saying so, as to a terminal that has gone.
    """
    line = event if _for_people(wanted) else json.dumps({**_STAMP(None, "info", {"level": "info"}), "event": event})
    with suppress(OSError):
        print(line, flush=True)


def coloured(environment: Mapping[str, str], *, terminal: bool) -> bool:
    """Whether text has colours: on a terminal that knows them, with FORCE_COLOR anywhere, with NO_COLOR nowhere."""
    if environment.get("NO_COLOR"):
        return False
    if forced := environment.get("FORCE_COLOR"):
        return forced != "0"
    return terminal and environment.get("TERM") != "dumb"


def _for_people(wanted: LogFormat) -> bool:
    return wanted == "text" or (wanted == "auto" and sys.stderr.isatty())
