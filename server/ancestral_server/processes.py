"""Several server processes behind one port: what one Python process cannot do on a machine of many cores.

Each is a whole server, with lanes and metrics of its own; the operating system deals connections out among them
(SO_REUSEPORT). So a client should hold several connections, and what is not a call goes by the folder of models, which
all of them watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import structlog

from ancestral_server.access import Access
from ancestral_server.addresses import bound, joined
from ancestral_server.backoff import SOUND_SECONDS, restart_delay
from ancestral_server.errors import StartupError
from ancestral_server.settings import PREFIX, Settings, flag_of

log = structlog.get_logger()

# Exit codes of a process that cannot start as asked: the first time, nor could another. One that comes in another's
# place is tried again, and so is one that ran: Python ends with 1 for an accident too.
_CANNOT_START = (1, 2)


async def serve_all(settings: Settings) -> int:
    """Keep `settings.processes` servers running until SIGTERM or SIGINT, which is passed on to them, a second one too.

    Returns the exit code: 0 if all ended gracefully. StartupError if nothing can listen on the port.
    """
    for remark in Access(settings).remarks():  # said once, as is what is wrong with the files
        log.warning(remark)
    with ExitStack() as reserved:
        ports = {"port": reserved.enter_context(_reserved(settings.host, settings.port, "--port"))}
        if settings.health_port is not None:
            health_port = _reserved(settings.host, settings.health_port, "--health-port")
            ports["health_port"] = reserved.enter_context(health_port)
        return await ProcessSupervisor(
            [_command(settings, ports, number) for number in range(settings.processes)]
        ).work()


@contextmanager
def _reserved(host: str, port: int, flag: str) -> Iterator[int]:
    """The port of a flag, a free one for 0, kept for processes that share it: nothing listens here."""
    try:
        # Alone first: who shares a port is not told that somebody else's servers do so too.
        with bound(host, port) as alone:
            port = alone.getsockname()[1]
        shared = bound(host, port, socket.SO_REUSEPORT)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {joined(host, port)}: {error.strerror}; choose another with {flag} or --host"
        ) from error
    with shared:
        yield port


def _command(settings: Settings, ports: Mapping[str, int], number: int) -> list[str]:
    """The command of one of the processes: the same settings, its share of the cores, metrics on a port of its own.

    ports: those that all of them share, by setting.
    """
    own = {
        **ports,
        "processes": 1,
        "share_port": True,
        "metrics_port": settings.metrics_port and settings.metrics_port + number,
        "threads": max(1, settings.threads // settings.processes),
    }
    flags = {**settings.model_dump(exclude_none=True), **own}
    # In one word each: a folder may be called like a flag.
    arguments = [f"{flag_of(name)}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "ancestral_server", *arguments]


def _environment() -> dict[str, str]:
    """What a process inherits: all but our own variables, since its flags say everything."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}


class ProcessSupervisor:
    def __init__(self, commands: list[list[str]]) -> None:
        self._commands = commands
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()

    async def work(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        return max(await asyncio.gather(*(self._keep(number) for number in range(len(self._commands)))))

    def _stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._stopping.set()
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, number: int) -> int:
        """Run one of the processes, again and again if it ends by itself; its last exit code."""
        failures = 0
        while True:
            began = time.monotonic()
            # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
            process = await asyncio.create_subprocess_exec(
                *self._commands[number], env=_environment(), start_new_session=True, preexec_fn=_end_with_parent
            )
            self._running[number] = process
            if self._stopping.is_set():
                process.terminate()
            code = await process.wait()
            del self._running[number]
            if self._stopping.is_set():
                # Before Python was up the signal itself ends it.
                return 0 if code in (-signal.SIGTERM, -signal.SIGINT) else code if code >= 0 else 128 - code
            sound = time.monotonic() - began > SOUND_SECONDS
            if code in _CANNOT_START and not failures and not sound:
                self._stop()
                return code
            failures = 1 if sound else failures + 1
            log.error("a process ended, starting another", number=number, code=code, failures=failures)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(restart_delay(failures)):
                    await self._stopping.wait()
                    return 0


def _end_with_parent() -> None:
    """On Linux, have the kernel stop the calling process when this one is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
