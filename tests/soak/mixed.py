"""Callers that agree on nothing, each reply checked: patient and hasty ones, and those that leave, dawdle or err."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import numpy as np

import traffic
from rpcs import STATUS_LOST, replies

# How a stream ended whose client lost the status, since it was still sending when it ended.
LOST = "LOST"
# How a call ended that asks again: a fair answer of a busy server, as long as there is another one in the end.
NO_ROOM = "RESOURCE_EXHAUSTED for now"
PATIENT_SECONDS = 120.0
# How much later than its deadline a call may end before it counts as hung.
GRACE_SECONDS = 30.0
# What share of the callers behaves how; the others are patient.
MANNERS = {"hasty": 0.08, "leaves": 0.1, "reads slowly": 0.04, "is wrong": 0.06, "is oversized": 0.01}


def connect(address: str, connections: int) -> list[grpc.aio.Channel]:
    """Channels with a connection each; gRPC would otherwise share one."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return [grpc.aio.insecure_channel(address, options) for _ in range(connections)]


class Mixed:
    """Callers that never agree: `workers` at a time, each call of a kind and a manner by chance.

    rate: calls per second of all workers together, each at a time of its own, later only where its worker is still busy
    with one before; 0 for as many as are answered.
    """

    def __init__(
        self,
        seconds: float,
        workers: int,
        limit: int,
        seed: int,
        rate: float = 0.0,
        manners: bool = True,
        keep: bool = False,
    ) -> None:
        self._began = time.monotonic()
        self._end = self._began + seconds
        self._workers = workers
        self._rate = rate
        self._limit = limit
        self._seed = seed
        self._manners = MANNERS if manners else {}
        self.issued = 0
        # By kind, and by how they ended.
        self.answered: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.problems: list[str] = []
        # Outcome by request id, of a load that is to keep them; else a million would pile up.
        self._keep = keep
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
        manners = [*self._manners, "is patient"]
        shares = [*self._manners.values(), 1 - sum(self._manners.values())]
        nth = 0
        while time.monotonic() < self._end:
            if self._rate:
                due = self._began + (nth * self._workers + number) / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            # Each call's own: a load of the same seed asks for the same, however often a call has to be tried again.
            random = np.random.default_rng([self._seed, number, nth])
            await self._one(channel, random, manners[random.choice(len(manners), p=shares)])
            nth += 1

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
        code, got = await ended(call, timeout, pause)
        may_come_again = code == "RESOURCE_EXHAUSTED" and time.monotonic() < gives_up
        again = pushback(await call.trailing_metadata()) if may_come_again else None
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
        if self._keep:
            self.calls[identity] = code
        if code.endswith("UNAVAILABLE"):
            # Nobody is there: do not spin.
            await asyncio.sleep(0.05)
        return again


def pushback(trailers: Any) -> float | None:
    """Seconds after which the server says to try again; None where it does not."""
    milliseconds = dict(trailers or ()).get("grpc-retry-pushback-ms")
    return None if milliseconds is None else int(milliseconds) / 1000


async def ended(call: Any, timeout: float, pause: float) -> tuple[str, list[Any]]:
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
