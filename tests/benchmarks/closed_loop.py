"""The callers that a front end is measured with; few imports, since each load is a process of its own.

    python closed_loop.py calls ADDRESS METHOD CONCURRENCY SECONDS FILE     a closed loop of calls with what FILE holds
    python closed_loop.py stream ADDRESS METHOD SECONDS FILE                one stream of the message in FILE
    python closed_loop.py                                                   one after the other, as its input says

They print what they measured, JSON, a line each; `answers` counts those of the warm-up too.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Coroutine
from pathlib import Path
from typing import Any

import grpc
import numpy as np

# Before the clock starts: a connection's first calls are slow.
WARM_UP_CALLS = 20


async def calls(address: str, method: str, concurrency: int, seconds: float, request: bytes) -> dict[str, float]:
    """Keep so many calls in flight: calls/s and latency quantiles, ms."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        for _ in range(WARM_UP_CALLS):
            await call(request)
        began = time.perf_counter()

        async def caller() -> None:
            while (sent := time.perf_counter()) < began + seconds:
                await call(request)
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        spent = time.perf_counter() - began
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    return {
        "rate": len(latencies) / spent,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "answers": len(latencies) + WARM_UP_CALLS,
    }


async def stream(address: str, method: str, seconds: float, message: bytes) -> dict[str, float]:
    """Send the message as fast as the stream takes it: answered messages/s."""
    answers, began = 0, time.perf_counter()

    async def messages() -> AsyncIterator[bytes]:
        while time.perf_counter() < began + seconds:
            yield message

    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.stream_stream(method)
        async for _ in call(messages()):
            answers += 1
    return {"rate": answers / (time.perf_counter() - began), "answers": answers}


def finished(*arguments: str) -> dict[str, float]:
    """What a load in a process of its own measured."""
    child = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    return dict(json.loads(child.stdout))


def load(address: str, method: str, concurrency: int, seconds: float, request: Path) -> dict[str, float]:
    return finished("calls", address, method, str(concurrency), str(seconds), str(request))


class Caller:
    """A process of these loads that stays; a context manager that ends it. cores: where it may run."""

    def __init__(self, cores: Collection[int]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        os.sched_setaffinity(self._process.pid, cores)

    def load(self, *arguments: object) -> dict[str, float]:
        """What one load measured: "calls" or "stream" and its arguments."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(argument) for argument in arguments]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the caller ended with {self._process.wait()}")
        return dict(json.loads(line))

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def work(arguments: list[str]) -> Coroutine[Any, Any, dict[str, float]]:
    match arguments:
        case ["calls", address, method, concurrency, seconds, request]:
            return calls(address, method, int(concurrency), float(seconds), Path(request).read_bytes())
        case ["stream", address, method, seconds, message]:
            return stream(address, method, float(seconds), Path(message).read_bytes())
        case _:
            sys.exit(__doc__)


def main() -> None:
    arguments = sys.argv[1:]
    with asyncio.Runner() as runner:
        for each in [arguments] if arguments else map(json.loads, sys.stdin):
            print(json.dumps(runner.run(work(each))), flush=True)


if __name__ == "__main__":
    main()
