"""Starting the real server as a process of its own, on free loopback ports."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from preloaded import Forked
from waiting import PATIENCE

Process = subprocess.Popen[str] | Forked
# What Python runs where a server is started as users do.
COMMAND = ("-m", "ancestral_server")
# Flags of a server that refuses nobody for being slow, nor lets anybody wait in vain when it stops: on a busy machine a
# slow moment is no overload.
PATIENT = ("--max-queue-ms", "3600000", "--drain-seconds", "600")


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# Not everywhere: containers often have no ::1.
HAS_IPV6 = _has_ipv6()


def by_command(
    arguments: Sequence[str], environment: Mapping[str, str], log: int | None, program: Sequence[str] = COMMAND
) -> Process:
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if log is None else log,
        text=True,
        # What gRPC itself logs may hold bytes of a caller.
        errors="replace",
        env=dict(environment),
    )


class ServerProcess:
    """`ancestral-server` on free ports; a context manager that stops it gracefully.

    log: the file descriptor that it logs to; None for the list `log`. program: what Python runs in its place.
    environment: variables beside those of this process.
    """

    usual: Callable[[Sequence[str], Mapping[str, str], int | None], Process] = staticmethod(by_command)
    """Starts it where neither is given. The suite forks it, see preloaded.py."""

    def __init__(
        self,
        models: Path,
        *flags: str,
        log: int | None = None,
        program: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        arguments = ["--models", str(models), "--port", "0", "--metrics-port", "0", "--device", "cpu", *flags]
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        if program is None and environment is None:
            self.process = self.usual(arguments, variables, log)
        else:
            self.process = by_command(arguments, variables, log, program or COMMAND)
        # Drained all the time: a full pipe would stop the server.
        self.log: list[str] = []
        self._drain = threading.Thread(target=self._read_log, daemon=True)
        self._drain.start()
        assert self.process.stdout is not None
        # What it prints once it serves.
        self.said = line = self.process.stdout.readline()
        listening = re.search(r'listening on (\S+), metrics on ([^\s"]+)', line)
        if listening is None:
            self.process.kill()
            self.process.wait()
            self._drain.join()
            raise RuntimeError(f"the server did not start: {line!r}\n" + "".join(self.log))
        self.address, metrics = listening.groups()
        self.metrics_url = f"http://{metrics}/metrics"

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr or ())

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=PATIENCE) as reply:
            return str(reply.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that carry these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            sample = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
            if sample and sample[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
                if labels.items() <= found.items():
                    total += float(sample[3])
        return total

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        began = time.monotonic()
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running {time.monotonic() - began:.0f} s after {number.name}") from None
        finally:
            self._drain.join(PATIENCE)
            if self.process.stdout is not None:
                self.process.stdout.close()
            if self.process.stderr is not None:
                self.process.stderr.close()
        return code

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def heed_sigterm() -> None:
    """Have SIGTERM end a program as Ctrl-C does, by an exception, so that the processes that it started end too."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
