"""The callers that a front end is measured with; few imports, since each load is a process of its own.

    python closed_loop.py calls ADDRESS METHOD CONCURRENCY SECONDS FILE     a closed loop of calls with what FILE holds
    python closed_loop.py stream ADDRESS METHOD SECONDS FILE                one stream of the message in FILE

Both print what they measured, JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np


async def calls(address: str, method: str, concurrency: int, seconds: float, request: bytes) -> dict[str, float]:
    """Keep so many calls in flight: calls/s and latency quantiles, ms."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        for _ in range(20):
            await call(request)
        began = time.perf_counter()

        async def caller() -> None:
            while (sent := time.perf_counter()) < began + seconds:
                await call(request)
                latencies.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(concurrency)))
        spent = time.perf_counter() - began
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    return {"rate": len(latencies) / spent, "p50_ms": float(p50), "p99_ms": float(p99), "calls": len(latencies)}


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
    return {"rate": answers / (time.perf_counter() - began)}


def finished(*arguments: str) -> dict[str, float]:
    """What a load in a process of its own measured."""
    child = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    return dict(json.loads(child.stdout))


def load(address: str, method: str, concurrency: int, seconds: float, request: Path) -> dict[str, float]:
    return finished("calls", address, method, str(concurrency), str(seconds), str(request))


def main() -> None:
    match sys.argv[1:]:
        case ["calls", address, method, concurrency, seconds, request]:
            measuring = calls(address, method, int(concurrency), float(seconds), Path(request).read_bytes())
            print(json.dumps(asyncio.run(measuring)))
        case ["stream", address, method, seconds, message]:
            print(json.dumps(asyncio.run(stream(address, method, float(seconds), Path(message).read_bytes()))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
