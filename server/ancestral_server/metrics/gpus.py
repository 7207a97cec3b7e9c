"""What NVIDIA's management library (NVML) tells of the GPUs that a server uses: asked at each scrape, and never waited
for for long, since its calls may hang where a GPU has fallen off the bus. The only module that imports pynvml.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

log = structlog.get_logger()

# A scrape waits so long. An answer takes about a millisecond, and the first one, which opens the library, tens of them.
# Prometheus gives a scrape up after 10 s, and all other series would be lost with it.
LONGEST_SECONDS = 1.0
# By NVML's own names: a GPU, and a part of one that is shared out.
_KINDS = ("GPU", "MIG")


@dataclass(frozen=True)
class Gpu:
    """One of them, at a scrape. gpu: its number, as --device counts. Figures are None where the device, or the right to
    ask, has none; utilization: the share of the last fraction of a second in which something ran on it.
    """

    gpu: str
    name: str
    uuid: str
    driver: str
    there: bool = True
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None

    def lost(self) -> Gpu:
        """The same one, which does not answer."""
        return Gpu(self.gpu, self.name, self.uuid, self.driver, there=False)


# By number the UUID, without a kind before it; None where there is no such GPU, or no driver.
Uuids = Mapping[int, Callable[[], str | None]]


class Gpus:
    """Asks for the GPUs with these numbers. Nothing is loaded before the first time, nor where there is none.

    A GPU that was seen once and does not answer any more is still told of, as one that is not `there`; of one that was
    never seen nothing is: NVML may be missing, as in a container that was given the device alone.
    """

    def __init__(self, uuids: Uuids, longest_seconds: float = LONGEST_SECONDS) -> None:
        self._uuids = uuids
        self._longest_seconds = longest_seconds
        self._asking: threading.Thread | None = None
        self._opened = False
        # By number: what was told last, NVML's handles of those that answer, and what was wrong with the others.
        self._seen: dict[int, Gpu] = {}
        self._handles: dict[int, Any] = {}
        self._problems: dict[int, str] = {}

    def read(self) -> list[Gpu]:
        """How they are now; by one thread at a time. Returns after `longest_seconds` at most."""
        # While one hangs there is no second one: each would be a thread that never ends.
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, name="nvml", daemon=True)
            self._asking.start()
        self._asking.join(self._longest_seconds)
        seen = dict(self._seen).values()
        return [gpu.lost() for gpu in seen] if self._asking.is_alive() else list(seen)

    def _ask(self) -> None:
        for number, uuid in self._uuids.items():
            if known := self._seen.get(number):
                self._look(number, [known.uuid])
            elif name := uuid():
                self._look(number, [f"{kind}-{name}" for kind in _KINDS])

    def _look(self, number: int, uuids: Sequence[str]) -> None:
        """Note how a GPU is that has one of these names."""
        try:
            import pynvml
        except ImportError as error:
            self._say(number, str(error))
            return
        try:
            if number not in self._handles:
                self._find(pynvml, number, uuids)
            self._seen[number] = _asked(pynvml, self._seen[number], self._handles[number])
        except pynvml.NVMLError as error:
            self._handles.pop(number, None)
            if number in self._seen:
                self._seen[number] = self._seen[number].lost()
            self._say(number, str(error))
        else:
            self._say(number, "")

    def _find(self, pynvml: Any, number: int, uuids: Sequence[str]) -> None:
        """Have the handle of the first of these that there is."""
        if not self._opened:
            pynvml.nvmlInit()
            self._opened = True
        *others, last = uuids
        for uuid in others:
            with suppress(pynvml.NVMLError):
                return self._found(pynvml, number, uuid)
        return self._found(pynvml, number, last)

    def _found(self, pynvml: Any, number: int, uuid: str) -> None:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        if number not in self._seen:
            name, driver = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion()
            self._seen[number] = Gpu(str(number), name, uuid, driver)
        self._handles[number] = handle

    def _say(self, number: int, problem: str) -> None:
        """Log what has changed."""
        before = self._problems.get(number, "")
        self._problems[number] = problem
        if problem == before:
            return
        if not problem:
            log.info("the GPU answers", gpu=number)
        elif number in self._seen:
            log.error("the GPU does not answer any more", gpu=number, reason=problem)
        else:
            log.warning("no metrics of the GPU", gpu=number, reason=problem)


def _asked(pynvml: Any, gpu: Gpu, handle: Any) -> Gpu:
    """A GPU with its figures as they are now; NVMLError if it does not answer."""

    def figure(ask: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return ask(handle, *arguments)
        except pynvml.NVMLError:
            return None

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:  # its memory is the machine's
        memory = None
    rates = figure(pynvml.nvmlDeviceGetUtilizationRates)
    milliwatts = figure(pynvml.nvmlDeviceGetPowerUsage)
    return Gpu(
        gpu.gpu,
        gpu.name,
        gpu.uuid,
        gpu.driver,
        memory_used_bytes=None if memory is None else memory.used,
        memory_total_bytes=None if memory is None else memory.total,
        utilization_ratio=None if rates is None else rates.gpu / 100,
        temperature_celsius=figure(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )
