"""What `ancestral-server` runs: flags to settings, settings to `app.serve`; or `health`, or `token`."""

from __future__ import annotations

import asyncio
import os
import sys

import structlog

from ancestral_server import command_line, extras, logs
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings

log = structlog.get_logger()


def main() -> None:
    """Exit code 0 after a graceful stop, 1 if the server cannot start as asked, 2 for wrong flags or variables, 3 if it
    lost its GPU; of `health` and `token` see there.
    """
    try:
        if sys.argv[1:2] == ["health"]:
            from ancestral_server import health

            sys.exit(health.main(sys.argv[2:], os.environ))
        if sys.argv[1:2] == ["token"]:
            from ancestral_server import token

            sys.exit(token.main(sys.argv[2:]))
        settings, remarks = command_line.read(sys.argv[1:], os.environ)
    except command_line.WrongUsage as error:
        for line in str(error).splitlines():
            print(f"ancestral-server: {line}", file=sys.stderr)
        sys.exit(2)
    _serve(settings, remarks)


def _serve(settings: Settings, remarks: list[str]) -> None:
    # Here, since `health` has no use for what they import: onnxruntime.
    from ancestral_server.app import serve
    from ancestral_server.processes import serve_all
    from ancestral_server.rpc.grpc_workarounds import leaving

    logs.configure(settings.log_format)
    if not settings.share_port:  # of several processes the one that starts them has said it
        for remark in remarks:
            log.warning(remark)
    with asyncio.Runner(loop_factory=event_loop) as runner:
        try:
            extras.check(settings)
            if settings.processes > 1:
                # The servers have ended: to take down what this process has imported would take a second more.
                os._exit(runner.run(serve_all(settings)))
            code = runner.run(serve(settings))
        except StartupError as error:
            print(f"ancestral-server: {error}", file=sys.stderr)
            sys.exit(1)
        # Everybody who was let in has been answered.
        leaving.leave(code)


def event_loop() -> asyncio.AbstractEventLoop:
    """libuv's, where there is one: each turn of the loop costs less."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()
