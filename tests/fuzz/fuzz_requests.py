"""Malformed requests over every RPC that the server has, found by reflection: a new one is fuzzed by itself.

Every call must be answered before its deadline, and never with a code that says that the server is at fault.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

import messages
import toybundle
import traffic
from rpcs import STATUS_LOST, Rpc, replies, rpcs_of
from running import ServerProcess

# Only what hangs takes so long, on however busy a machine.
DEADLINE_SECONDS = 120.0
# The server's fault, or no answer at all.
FAULTS = {"UNKNOWN", "INTERNAL", "DEADLINE_EXCEEDED", "UNAVAILABLE", "DATA_LOSS", "ABORTED", "HUNG"}
# Of an endless stream so many replies are enough.
MOST_REPLIES = 5
RAW_SHARE = 0.02
# What grpc.aio logs where a caller is gone before it hears its error.
KNOWN = ("ExecuteBatchError",)
# More say nothing new: the server is gone.
MOST_FAULTS = 40
# Small limits, so that what is right in spite of all is answered fast, and the limits are met.
FLAGS = ("--max-message-mib", "1", "--max-sample-count", "300", "--max-images", "1000")
# What may unload a model is let loose on one that nobody needs.
SPARE_MODEL = "spare"


@dataclass
class Result:
    cases: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    rpcs: Counter[str] = field(default_factory=Counter)
    # What went wrong and the case that shows it.
    faults: list[str] = field(default_factory=list)


def fuzz(models: Path, cases: int, seed: int, first: int = 0) -> Result:
    """Send cases `first` to `first + cases` of a seed; each depends on (seed, case) alone."""
    traffic.write_version(models, 1)
    toybundle.write(models, SPARE_MODEL)
    with ServerProcess(models, *FLAGS) as server:
        rpcs = rpcs_of(server.address)
        result = asyncio.run(_run(server.address, rpcs, range(first, first + cases), seed))
        if server.process.poll() is not None:
            said = "".join(server.log[-30:])[-3000:]
            result.faults.insert(0, f"the server ended with {server.process.returncode}: {said}")
        result.faults += trouble(server.log)
    return result


def trouble(log: list[str]) -> list[str]:
    """Errors and tracebacks that the server logged, whatever the caller heard."""
    found = [
        "".join(log[i : i + 30]) for i, line in enumerate(log) if "Traceback" in line or '"level": "error"' in line
    ]
    return [text for text in found if not any(word in text for word in KNOWN)][:5]


async def _run(address: str, rpcs: list[Rpc], cases: range, seed: int) -> Result:
    result, todo = Result(), iter(cases)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_metadata_size", 2**20)]

    async def work() -> None:
        async with grpc.aio.insecure_channel(address, options) as channel:
            for case in todo:
                random = np.random.default_rng([seed, case])
                rpc = messages.pick(random, rpcs)
                if random.random() < RAW_SHARE:
                    code = await _raw(address, rpc, random)
                else:
                    code = await _call(channel, rpc, random)
                result.cases += 1
                result.codes[code.partition(":")[0]] += 1
                result.rpcs[rpc.path] += 1
                if len(result.faults) >= MOST_FAULTS:
                    return
                if code.partition(":")[0] in FAULTS:
                    result.faults.append(f"seed {seed} case {case}, {rpc.path}: {code}")

    await asyncio.gather(*(work() for _ in range(16)))
    if len(result.faults) >= MOST_FAULTS:
        return result
    async with grpc.aio.insecure_channel(address) as channel:
        random = np.random.default_rng(seed)
        for maker in traffic.KINDS:
            ask = maker(random)
            got = [reply async for reply in replies(ask.rpc.call(channel, ask.requests, timeout=DEADLINE_SECONDS))]
            if problem := ask.problem(got):
                result.faults.append(f"afterwards a right {ask.rpc.name} is answered wrongly: {problem}")
    return result


async def _call(channel: grpc.aio.Channel, rpc: Rpc, random: messages.Random) -> str:
    many = rpc.takes_many or random.random() < 0.03
    count = int(random.integers(0, 5)) if many else 1
    requests = [messages.request(rpc.request, random, _model(rpc)) for _ in range(count)]
    call = rpc.call(channel, requests, timeout=DEADLINE_SECONDS, metadata=messages.metadata(random))
    seen = 0
    try:
        async with asyncio.timeout(DEADLINE_SECONDS + 10):
            async for _ in replies(call):
                seen += 1
                if seen >= MOST_REPLIES or rpc.name == "Watch":
                    call.cancel()
                    return "OK"
    except grpc.aio.AioRpcError as error:
        if len(requests) != 1 and error.details() == STATUS_LOST:
            return "ended while sending"
        if (
            "load" in rpc.name.lower()
            and error.code() is grpc.StatusCode.UNAVAILABLE
            and "loaded" in (error.details() or "")
        ):
            return "raced"  # one caller loads what another unloads, and is told so
        return f"{error.code().name}: {error.details()}"
    except TimeoutError:
        return "HUNG"
    return "OK"


def _model(rpc: Rpc) -> str:
    """Whom a request names that names somebody: the model that the others ask for is not unloaded under them."""
    return SPARE_MODEL if "load" in rpc.name.lower() else traffic.MODEL


async def _raw(address: str, rpc: Rpc, random: messages.Random) -> str:
    """A connection that speaks nearly HTTP/2. That the others go on being answered is what is tested."""
    host, port = address.split(":")
    request = messages.request(rpc.request, random, _model(rpc))
    content = request if isinstance(request, bytes) else request.SerializeToString()
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return "UNAVAILABLE: the port is closed"
    with contextlib.suppress(ConnectionError, TimeoutError):
        writer.write(messages.connection(rpc.path, content[:100_000], random))
        await writer.drain()
        async with asyncio.timeout(float(random.choice([0.0, 0.05]))):
            await reader.read(2**16)
    writer.transport.abort()
    return "raw"
