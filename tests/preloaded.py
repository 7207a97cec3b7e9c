"""Servers forked from a process that has imported what they need, and has done nothing else.

A start of Python with gRPC and onnxruntime takes a second of a server's start, all but a tenth, and the suite starts
hundreds. From there on each is a process like any other: its own arguments, environment, folder, output and memory.

    python preloaded.py FD      forks a server for each message on that socket
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

# What a server imports once it is told what to do.
_MODULES = ("ancestral_server.app", "ancestral_server.cli", "ancestral_server.processes", "uvloop")
# Of a message: the server's stdout and stderr, and where its pid is told, and then its exit code.
_FDS = 3
_NUMBER = struct.Struct("q")
# Longer than any environment.
_MOST_BYTES = 2**17


class Forked:
    """A server: as much of `subprocess.Popen` as is asked of one."""

    stderr: IO[str] | None

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: int | None) -> None:
        """log: the file descriptor that it logs to; None for a pipe, `stderr`."""
        stdout, their_stdout = os.pipe()
        stderr, their_stderr = os.pipe() if log is None else (None, os.dup(log))
        self._status, their_status = os.pipe()
        message = json.dumps([list(arguments), dict(environment), os.getcwd()]).encode()
        theirs = [their_stdout, their_stderr, their_status]
        socket.send_fds(_forking(), [message], theirs)
        for descriptor in theirs:
            os.close(descriptor)
        self.stdout = os.fdopen(stdout, errors="replace")
        self.stderr = None if stderr is None else os.fdopen(stderr, errors="replace")
        self.returncode: int | None = None
        self._reading = threading.Lock()
        self.pid = self._read()

    def _read(self) -> int:
        number = os.read(self._status, _NUMBER.size)
        assert number, "the process that forks the servers has ended"
        found: int = _NUMBER.unpack(number)[0]
        return found

    def poll(self) -> int | None:
        return self._waited(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._waited(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("ancestral-server", timeout or 0)
        return code

    def _waited(self, timeout: float | None) -> int | None:
        ended = select.poll()
        ended.register(self._status, select.POLLIN)
        # Whoever waits beside another finds it there, too: it is read below, and the end of the pipe stays.
        if ended.poll(None if timeout is None else timeout * 1000):
            with self._reading:
                if self.returncode is None:
                    self.returncode = self._read()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._status)


@functools.cache
def _forking() -> socket.socket:
    """The socket of the process that forks servers for this one; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# ---- the process that forks


def _fork_servers(asked: socket.socket) -> bool:
    """True in each process that is to become a server; False once nobody will ask for any more."""
    before = dict(os.environ)
    for module in _MODULES:
        importlib.import_module(module)
    imported = {name: value for name, value in os.environ.items() if before.get(name) != value}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    # Ctrl-C is for the tests, which end this process.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(_MOST_BYTES)
                _tell_ended(running)
            if asked not in ready:
                continue
            message, (*descriptors,), _, _ = socket.recv_fds(asked, _MOST_BYTES, _FDS)
            if not message:
                return False
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, interrupt)
                for end in (asked, woken, wake):
                    end.close()
                for other in running.values():
                    os.close(other)
                _become(imported, *json.loads(message), *descriptors)
                return True
            *outputs, running[pid] = descriptors
            for descriptor in outputs:
                os.close(descriptor)
            os.write(running[pid], _NUMBER.pack(pid))


def _tell_ended(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(told, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(told)


def _become(
    imported: dict[str, str],
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    stdout: int,
    stderr: int,
    status: int,
) -> None:
    """Make this process what it would be had it been started so. imported: variables that imports have set."""
    for number, descriptor in ((1, stdout), (2, stderr)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(status)
    outputs: list[Any] = [sys.stdout, sys.stderr]
    for output in outputs:
        output.reconfigure(write_through=True)
    os.environ.clear()
    os.environ.update(imported | environment)
    os.chdir(folder)
    sys.argv[:] = ["ancestral-server", *arguments]


if __name__ == "__main__":
    if _fork_servers(socket.socket(fileno=int(sys.argv[1]))):
        from ancestral.commands import server

        server()
