"""The processes that a front end is measured with; few imports, since each load starts one anew.

    python closed_loop.py echo BYTES                                 a server that answers every call with so many bytes
    ... calls ADDRESS METHOD CONCURRENCY SECONDS FILE                a closed loop of calls with the request in FILE
    ... stream ADDRESS METHOD SECONDS FILE                           one stream of the message in FILE, over and over

`echo` prints its port, the others what they measured, JSON.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ECHO = "/bench.Echo/Echo"


async def echo(size: int) -> None:
    """Answer every call with `size` bytes; prints the port."""
    reply = bytes(size)

    async def answer(request: bytes, context: Any) -> bytes:
        return reply

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


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


def _child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def listening(process: subprocess.Popen[str]) -> Iterator[str]:
    """The address of a server that prints its port; ended afterwards."""
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


def echo_server(size: int) -> AbstractContextManager[str]:
    return listening(_child("echo", str(size)))


def finished(*arguments: str) -> dict[str, float]:
    """What a load generator in a process of its own measured."""
    output, _ = _child(*arguments).communicate(timeout=120)
    return dict(json.loads(output))


def load(address: str, method: str, concurrency: int, seconds: float, request: Path) -> dict[str, float]:
    return finished("calls", address, method, str(concurrency), str(seconds), str(request))


def main() -> None:
    match sys.argv[1:]:
        case ["echo", size]:
            asyncio.run(echo(int(size)))
        case ["calls", address, method, concurrency, seconds, request]:
            measuring = calls(address, method, int(concurrency), float(seconds), Path(request).read_bytes())
            print(json.dumps(asyncio.run(measuring)))
        case ["stream", address, method, seconds, message]:
            print(json.dumps(asyncio.run(stream(address, method, float(seconds), Path(message).read_bytes()))))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
