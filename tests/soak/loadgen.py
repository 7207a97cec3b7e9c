"""The load, in a process of its own, so that the server's process is measured alone.

`Generator` starts it and hears its reports; as a command it takes one job and prints reports, JSON, a line each:

- mixed: callers of every kind and every manner, each reply checked; a report every `interval` seconds.
- closed: `concurrency` callers, each asking again as soon as it is answered; one report.
- open: calls arriving at random at a rate, whatever became of those before; one report per phase.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import traffic
from mixed import PATIENT_SECONDS, Mixed, connect, ended, pushback

Report = dict[str, Any]


class Generator:
    """A job in a child process; a context manager that ends it. `cores`: where it may run, if not everywhere."""

    def __init__(self, address: str, *, cores: set[int] | None = None, **job: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"address": address, **job})],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        if cores:
            os.sched_setaffinity(self.process.pid, cores)

    def reports(self) -> Iterator[Report]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)
        if self.process.wait():
            raise RuntimeError(f"the load generator ended with {self.process.returncode}")

    def stop_when_done(self) -> None:
        """Have a mixed load begin no new calls; it ends with its last report."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Vanish as a client does whose machine lost power."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def one_report(address: str, **job: Any) -> Report:
    """Run a job to its end; its last report."""
    with Generator(address, **job) as generator:
        *_, last = generator.reports()
    return last


async def mixed(address: str, *, interval: float = 5.0, calls: bool = False, **job: Any) -> None:
    """Reports are of the whole time until then, but for the latencies. `calls`: the last says how each call ended."""
    began, load = time.monotonic(), Mixed(**job, keep=calls)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop)
    running = asyncio.create_task(load.run(address))
    while not running.done():
        await asyncio.wait([running], timeout=interval)
        p50, p99 = quantiles(load.latencies, 0.5, 0.99)
        load.latencies.clear()
        say(
            seconds=time.monotonic() - began,
            issued=load.issued,
            answered=load.answered,
            outcomes=load.outcomes,
            problems=load.problems[:20],
            p50=p50,
            p99=p99,
            calls=load.calls if running.done() else {},
        )
    await running


async def closed(address: str, *, concurrency: int, seconds: float, images: int = 1) -> None:
    """Encode as fast as the answers come. The first fifth of the time does not count.

    A caller's latency is all that it waits: where more call than may wait, it is refused and comes again when told to,
    until it is served.
    """
    channels, random = connect(address, 1), np.random.default_rng(1)
    ask = traffic.encode(random, images)
    begin = time.monotonic() + seconds / 5
    end, latencies = begin + seconds * 4 / 5, []

    async def served() -> Any:
        while True:
            try:
                return await ask.rpc.call(channels[0], ask.requests, timeout=PATIENT_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(pushback(error.trailing_metadata()) or 0.005)

    async def caller() -> None:
        while (now := time.monotonic()) < end:
            reply = await served()
            problem = ask.problem([reply])
            assert not problem, problem
            if now >= begin:
                latencies.append(time.monotonic() - now)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    p50, p95, p99 = quantiles(latencies, 0.5, 0.95, 0.99)
    say(rate=len(latencies) / (end - begin), p50=p50, p95=p95, p99=p99)


async def open_loop(
    address: str, *, phases: list[tuple[float, float]], deadline_seconds: float, images: int = 1
) -> None:
    """Phases of (calls/s, seconds), one straight after the other. `lag` says how late this process itself was."""
    # All calls are kept, and to look through them for garbage takes longer than a refusal may.
    gc.disable()
    channels, random = connect(address, 4), np.random.default_rng(1)
    ask = traffic.encode(random, images)
    when, parts = time.monotonic(), []
    for rate, seconds in phases:
        began, lags = when, []
        calls: list[asyncio.Task[tuple[float, float, str]]] = []
        while when < began + seconds:
            when += random.exponential(1 / rate)
            await asyncio.sleep(max(0.0, when - time.monotonic()))
            lags.append(time.monotonic() - when)
            channel = channels[len(calls) % len(channels)]
            calls.append(asyncio.create_task(_timed(ask, channel, deadline_seconds, when - began)))
        parts.append((rate, seconds, lags, calls))
    for rate, seconds, lags, calls in parts:
        say(rate=rate, seconds=seconds, lag=quantiles(lags, 0.99)[0], calls=await asyncio.gather(*calls))


async def _timed(ask: traffic.Ask, channel: grpc.aio.Channel, deadline: float, at: float) -> tuple[float, float, str]:
    """Seconds into the phase, seconds until the answer, and how it ended: OK, WRONG, or "CODE reason" of the server."""
    began = time.monotonic()
    call = ask.rpc.call(channel, ask.requests, timeout=deadline)
    code, got = await ended(call, deadline, 0)
    seconds = time.monotonic() - began
    if code == "OK":
        return at, seconds, "WRONG" if ask.problem(got) else "OK"
    # Only what the server itself refuses carries details; an expiry of the client's own clock has none.
    trailers = dict(await call.trailing_metadata() or ())
    return at, seconds, f"{code} refused" if "grpc-status-details-bin" in trailers else code


def quantiles(seconds: list[float], *shares: float) -> list[float]:
    return [float(q) for q in np.quantile(seconds or [0.0], shares)]


def say(**report: Any) -> None:
    print(json.dumps(report), flush=True)


JOBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"mixed": mixed, "closed": closed, "open": open_loop}

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    asyncio.run(JOBS[job.pop("kind")](**job))
