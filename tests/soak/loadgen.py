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
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np

import traffic
from rpcs import STATUS_LOST, replies

Report = dict[str, Any]

# How a stream ended whose client lost the status, since it was still sending when it ended.
LOST = "LOST"
# How a call ended that asks again: a fair answer of a busy server, as long as there is another one in the end.
NO_ROOM = "RESOURCE_EXHAUSTED for now"
PATIENT_SECONDS = 30.0
# How much later than its deadline a call may end before it counts as hung.
GRACE_SECONDS = 5.0
# What share of the callers behaves how; the others are patient.
MANNERS = {"hasty": 0.08, "leaves": 0.1, "reads slowly": 0.04, "is wrong": 0.06, "is oversized": 0.01}


class Generator:
    """A job in a child process; a context manager that ends it."""

    def __init__(self, address: str, **job: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"address": address, **job})],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )

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


def connect(address: str, connections: int) -> list[grpc.aio.Channel]:
    """Channels with a connection each; gRPC would otherwise share one."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return [grpc.aio.insecure_channel(address, options) for _ in range(connections)]


class Mixed:
    """Callers that never agree: `workers` at a time, each call of a kind and a manner by chance."""

    def __init__(self, seconds: float, workers: int, limit: int, seed: int, manners: bool = True) -> None:
        self._end = time.monotonic() + seconds
        self._workers = workers
        self._limit = limit
        self._seed = seed
        self._manners = MANNERS if manners else {}
        self.issued = 0
        # By kind, and by how they ended.
        self.answered: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        # Outcome by request id.
        self.calls: dict[str, str] = {}
        self.latencies: list[float] = []

    async def run(self, address: str) -> None:
        channels = connect(address, 4)
        await asyncio.gather(*(self._work(channels[n % 4], n) for n in range(self._workers)))
        await asyncio.gather(*(channel.close() for channel in channels))

    def stop(self) -> None:
        """Begin no new calls."""
        self._end = 0.0

    async def _work(self, channel: grpc.aio.Channel, number: int) -> None:
        random = np.random.default_rng([self._seed, number])
        manners = [*self._manners, "is patient"]
        shares = [*self._manners.values(), 1 - sum(self._manners.values())]
        while time.monotonic() < self._end:
            await self._one(channel, random, manners[random.choice(len(manners), p=shares)])

    async def _one(self, channel: grpc.aio.Channel, random: traffic.Random, manner: str) -> None:
        ask, allowed, timeout = traffic.some_kind(random), {"OK"}, PATIENT_SECONDS
        match manner:
            case "hasty":
                # Where the server's clock is a little ahead, its core ends the call with a reset that says CANCELLED.
                allowed, timeout = {"OK", "DEADLINE_EXCEEDED", "CANCELLED", LOST}, float(random.uniform(0.0005, 0.03))
            case "leaves":
                allowed = {"OK", "CANCELLED", LOST}
            case "is wrong":
                ask, allowed = traffic.wrong(random)
            case "is oversized":
                ask, allowed = traffic.oversized(random, self._limit)
        gives_up = time.monotonic() + PATIENT_SECONDS
        while (pause := await self._attempt(channel, random, manner, ask, allowed, timeout, gives_up)) is not None:
            await asyncio.sleep(pause)

    async def _attempt(
        self,
        channel: grpc.aio.Channel,
        random: traffic.Random,
        manner: str,
        ask: traffic.Ask,
        allowed: set[str],
        timeout: float,
        gives_up: float,
    ) -> float | None:
        """One call; where the server has no room, the seconds after which it says that the same would fit."""
        identity = f"{self._seed}-{self.issued}"
        self.issued += 1
        began = time.monotonic()
        call = ask.rpc.call(channel, ask.requests, timeout=timeout, metadata=(("x-request-id", identity),))
        if manner == "leaves":
            asyncio.get_running_loop().call_later(float(random.exponential(0.01)), call.cancel)
        pause = float(random.uniform(0.001, 0.02)) if manner == "reads slowly" else 0.0
        code, got = await _ended(call, timeout, pause)
        may_come_again = code == "RESOURCE_EXHAUSTED" and time.monotonic() < gives_up
        again = _pushback(await call.trailing_metadata()) if may_come_again else None
        problem = ask.problem(got) if code == "OK" else ""
        if again is not None:
            code = NO_ROOM
        elif problem or code not in allowed:
            code = "WRONG" if problem else f"UNEXPECTED {code}"
            self.problems.append(f"{ask.rpc.name}, caller {manner}: {code} {problem} {await _details(call)}")
        elif code == "OK":
            self.answered[ask.rpc.name] += 1
            if manner == "is patient":
                self.latencies.append(time.monotonic() - began)
        self.outcomes[code] += 1
        self.calls[identity] = code
        if code.endswith("UNAVAILABLE"):
            # Nobody is there: do not spin.
            await asyncio.sleep(0.05)
        return again


def _pushback(trailers: Any) -> float | None:
    """Seconds after which the server says to try again; None where it does not."""
    milliseconds = dict(trailers or ()).get("grpc-retry-pushback-ms")
    return None if milliseconds is None else int(milliseconds) / 1000


async def _ended(call: Any, timeout: float, pause: float) -> tuple[str, list[Any]]:
    """How a call ended, and its replies. HUNG where nothing came, not even the end of its deadline."""
    got: list[Any] = []
    try:
        async with asyncio.timeout(timeout + GRACE_SECONDS):
            async for reply in replies(call):
                got.append(reply)
                # A slow reader's stream fills up; it need not take minutes.
                if pause and len(got) < 50:
                    await asyncio.sleep(pause)
    except grpc.aio.AioRpcError as error:
        return LOST if error.details() == STATUS_LOST else error.code().name, got
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
        return "CANCELLED", got
    except TimeoutError:
        return "HUNG", got
    return "OK", got


async def _details(call: Any) -> str:
    return (await call.details() or "")[:200] if call.done() and not call.cancelled() else ""


async def mixed(address: str, *, interval: float = 5.0, calls: bool = False, **job: Any) -> None:
    """Reports are of the whole time until then, but for the latencies. `calls`: the last says how each call ended."""
    began, load = time.monotonic(), Mixed(**job)
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
            calls=load.calls if calls and running.done() else {},
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
                await asyncio.sleep(_pushback(error.trailing_metadata()) or 0.005)

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
    code, got = await _ended(call, deadline, 0)
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
