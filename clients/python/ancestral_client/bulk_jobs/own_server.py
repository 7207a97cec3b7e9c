"""A server of our own for one bundle: `ancestral-server` on this machine, which ends with whoever started it.

It is the server that serves the bundle elsewhere, so that answers are the same, batches are made in one place, and the
client needs no onnxruntime of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral_client.client import Client
from ancestral_client.replacing import FileProblem, reason

_LISTENING = re.compile(r'listening on (\S+), metrics on [^\s"]+')
# The shell becomes the server. What it leaves behind waits for the end of the pipe, which comes when whoever holds the
# other end is gone, however that ended, and ends the server then.
_ENDS_WITH_US = 'exec 3<&0; (cat <&3 >/dev/null; kill $$ 2>/dev/null) & exec "$@" 3<&- </dev/null'
# What a server has time for that nobody waits for any more.
_DRAIN_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in a folder, with the name and the version that its manifest says."""

    folder: Path
    name: str
    version: int

    @classmethod
    def at(cls, folder: Path) -> Bundle:
        """FileProblem where there is none."""
        manifest = folder / "bundle.json"
        try:
            about = json.loads(manifest.read_bytes())
            return cls(folder.resolve(), str(about["name"]), int(about["version"]))
        except (FileNotFoundError, NotADirectoryError):
            inside = sorted(folder.glob("*/bundle.json")) + sorted(folder.glob("*/*/bundle.json"))
            hint = f"; did you mean {inside[0].parent}?" if inside else ""
            raise FileProblem(f"--local {folder}: is no bundle, it has no bundle.json{hint}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileProblem(f"--local {folder}: bundle.json cannot be read: {reason(error)}") from error


class OwnServer:
    """A Place. The server is started when it is first asked for, and anew where it has died."""

    def __init__(self, bundle: Bundle, timeout: float, threads: int | None) -> None:
        self._bundle, self._timeout, self._threads = bundle, timeout, threads
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._closed = False

    def __getstate__(self) -> tuple[Any, ...]:
        return self._bundle, self._timeout, self._threads

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        OwnServer.__init__(self, *state)

    def client(self) -> Client:
        with self._lock:
            if self._running is not None and not self._running.alive:
                self._running.close()
                self._running = None
            if self._running is None:
                if self._closed:
                    raise FileProblem("the server of our own was stopped")
                self._running = _Running(self._bundle, self._timeout, self._threads)
            return self._running.client

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.close()
                self._running = None


class _Running:
    def __init__(self, bundle: Bundle, timeout: float, threads: int | None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ancestral-bulk-")
        place = Path(self._folder.name) / bundle.name / str(bundle.version)
        place.parent.mkdir()
        place.symlink_to(bundle.folder, target_is_directory=True)
        server = [str(Path(sys.executable).with_name("ancestral-server")), "--models", self._folder.name]
        server += ["--host", "127.0.0.1", "--port", "0", "--metrics-port", "0", "--poll-seconds", "0"]
        server += ["--drain-seconds", str(_DRAIN_SECONDS), "--log-format", "text"]
        server += [] if threads is None else ["--threads", str(threads)]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _ENDS_WITH_US, "sh", *server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Settings of a server that this machine may have besides are not for this one.
            env={name: value for name, value in os.environ.items() if not name.startswith("ANCESTRAL_SERVER_")},
            start_new_session=True,  # Ctrl-C is for the job, which then stops the server
        )
        # Read all the time, or a full pipe would stop the server; its end explains a failure.
        self._log: deque[str] = deque(maxlen=20)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self._process.stdout is not None
        listening = next(filter(None, map(_LISTENING.search, self._process.stdout)), None)
        if listening is None:
            self._stop()
            last = self._log[-1].strip() if self._log else "it said nothing"
            raise FileProblem(f"--local {bundle.folder}: no server could be started: {last}")
        # In plain text and without a token, whatever the environment says of other servers.
        self.client = Client(listening[1], timeout=timeout, retry_seconds=0, priority="batch", tls=False, token="")

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        self._log.extend(self._process.stderr)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        self.client.close()
        self._stop()

    def _stop(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(2 * _DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_DRAIN_SECONDS)
        self._folder.cleanup()
