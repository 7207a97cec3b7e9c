"""What the server runs on: its device, its CPUs and memory, and at each scrape what GPUs tell of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric

from ancestral_server.metrics.gpus import Gpu


class MachineMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._device = Info("ancestral_device", "What runs the graphs, and on how many threads.", registry=registry)
        self._device_images = Gauge(
            "ancestral_device_images",
            "Of each of several GPUs, images that it was given and has not answered.",
            ("device",),
            registry=registry,
        )
        self._cpus = Gauge("ancestral_cpus", "CPUs that this process may use.", registry=registry)
        self._memory_limit = Gauge(
            "ancestral_memory_limit_bytes",
            "Memory that this process may have: the machine's, or its control group's.",
            registry=registry,
        )

    def runs_on(self, *, device: str, threads: int, cpus: int, memory_bytes: float) -> None:
        """memory_bytes: infinite where it is unknown."""
        self._device.info({"device": device, "threads": str(threads)})
        self._cpus.set(cpus)
        self._memory_limit.set(memory_bytes)

    def gpus(self, read: Callable[[], Sequence[Gpu]]) -> None:
        """Have each scrape ask how the GPUs are that the server may use."""
        self._registry.register(_GpuSeries(read))

    def device(self, name: str) -> Callable[[float], None]:
        """Of one of several devices: what is told how many images more, or fewer, it has to do."""
        inc: Callable[[float], None] = self._device_images.labels(name).inc
        return inc


class _GpuSeries:
    """What is shown of GPUs; of what a device does not tell there is no series."""

    _FIGURES: Mapping[str, str] = {
        "memory_used_bytes": "Memory of the GPU that is taken, by whomever.",
        "memory_total_bytes": "Memory of the GPU.",
        "utilization_ratio": "The share of the last fraction of a second in which something ran on the GPU, 0 to 1.",
        "temperature_celsius": "Temperature of the GPU.",
        "power_watts": "Power that the GPU draws.",
    }

    def __init__(self, read: Callable[[], Sequence[Gpu]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        gpus = self._read()
        about = InfoMetricFamily(
            "ancestral_gpu", "A GPU that the server may use: its number, name, UUID and driver.", labels=("gpu",)
        )
        up = GaugeMetricFamily(
            "ancestral_gpu_up", "1 if the GPU answers, 0 if it was there and does not any more.", labels=("gpu",)
        )
        for gpu in gpus:
            about.add_metric((gpu.gpu,), {"name": gpu.name, "uuid": gpu.uuid, "driver": gpu.driver})
            up.add_metric((gpu.gpu,), float(gpu.there))
        yield about
        yield up
        for name, text in self._FIGURES.items():
            family = GaugeMetricFamily(f"ancestral_gpu_{name}", text, labels=("gpu",))
            for gpu in gpus:
                if (figure := getattr(gpu, name)) is not None:
                    family.add_metric((gpu.gpu,), figure)
            yield family
