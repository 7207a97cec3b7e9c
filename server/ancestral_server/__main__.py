"""`ancestral-server`: flags to settings, settings to `app.serve`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog
from pydantic import ValidationError
from pydantic_settings import CliApp

from ancestral_server.app import serve
from ancestral_server.errors import StartupError
from ancestral_server.processes import serve_all
from ancestral_server.settings import Settings


def main() -> None:
    """Exit code 0 after a graceful stop, 1 if the server cannot start as asked, 2 for wrong flags."""
    try:
        settings = CliApp.run(Settings)
    except ValidationError as error:
        for problem in error.errors():
            flag = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
            value = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
            print(f"ancestral-server: {flag}: {problem['msg']}{value}", file=sys.stderr)
        sys.exit(2)
    _configure_logging(settings)
    with asyncio.Runner(loop_factory=_event_loop) as runner:
        try:
            if settings.processes > 1:
                # The servers have ended: to take down what this process has imported would take a second more.
                os._exit(runner.run(serve_all(settings)))
            runner.run(serve(settings))
        except StartupError as error:
            print(f"ancestral-server: {error}", file=sys.stderr)
            sys.exit(1)
        # Everybody who was let in has been answered. What still arrives must hear UNAVAILABLE, which it does when the
        # sockets close with the process; gRPC's own stop, and the end of the event loop, would tell it CANCELLED.
        os._exit(0)


def _event_loop() -> asyncio.AbstractEventLoop:
    """libuv's, where there is one: each turn of the loop costs less."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


class _Log:
    """stderr, as the log's file. Where a line cannot be written (the disk is full, its reader has gone) it is lost, and
    not the call or the model that it tells of.
    """

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _configure_logging(settings: Settings) -> None:
    text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if text else [structlog.processors.dict_tracebacks]),
            structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Log())),
    )


if __name__ == "__main__":
    main()
