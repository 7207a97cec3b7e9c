"""Every knob of the server, once, and when to change it; `command_line` reads them from flags and the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ancestral_server.addresses import collector_of, host_of
from ancestral_server.cpus import usable_cpus

# The environment variable of each setting begins with it.
PREFIX = "ANCESTRAL_SERVER_"

LogFormat = Literal["auto", "text", "json"]

LAST_PORT = 65535
# Settings that are ports, all on the same host.
_PORTS = ("port", "metrics_port", "health_port")
# What each of these settings is of no use without.
IDLE_WITHOUT = {"metrics_tls": "tls_cert", "log_ratio": "log_calls", "trace_ratio": "otlp_endpoint"}

_DEVICE = re.compile(r"auto|cpu|cuda|cuda:all|cuda:[0-9]{1,3}(,cuda:[0-9]{1,3})*")


def device_of(text: str) -> str:
    """A device, or several, as they are asked for; ValueError if they are none."""
    text = ",".join(part.strip() for part in text.split(","))
    if not _DEVICE.fullmatch(text):
        raise ValueError(
            "must be auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or cuda:all, "
            "N being the number of a GPU from 0 on"
        )
    named = text.split(",")
    for each in named:
        if named.count(each) > 1:
            raise ValueError(f"names {each} more than once")
    return text


def flag_of(field: str) -> str:
    """How a setting is given on the command line."""
    return f"--{field.replace('_', '-')}"


def _flags(fields: Iterable[str]) -> str:
    return " and ".join(map(flag_of, fields))


class Settings(BaseModel):
    """Serve the image models in a folder over gRPC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Path = Field(description="Folder of bundles, NAME/VERSION/bundle.json.")
    base_models: Path | None = Field(
        default=None,
        description="One more such folder, whose models serve beside those of --models: for models that many servers "
        "share. Of a name that both have, --models has all versions.",
    )
    host: Annotated[str, AfterValidator(host_of)] = Field(
        default="127.0.0.1",
        description="Address or name to listen on, for both ports; 0.0.0.0 or :: to be reached from elsewhere.",
    )
    port: int = Field(default=8500, ge=0, le=LAST_PORT, description="gRPC port; 0 takes a free one and prints it.")
    metrics_port: int = Field(
        default=9464,
        ge=0,
        le=LAST_PORT,
        # --port may be that of the default.
        validate_default=True,
        description="Prometheus port; 0 takes a free one.",
    )
    health_port: int | None = Field(
        default=None,
        ge=0,
        le=LAST_PORT,
        description="One more port, for health only, in plain text and for anybody who reaches it: for probes, where "
        "TLS or callers close the first to them. 0 takes a free one.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate of this server and those between it and its root, PEM: TLS on the gRPC port and the "
        "metrics'. Like each file of these it is read again when it changes.",
    )
    tls_key: Path | None = Field(default=None, description="Key of that certificate, PEM, if not in the same file.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="Who signs the certificates of clients, PEM: only clients that bring one are heard (mTLS).",
    )
    metrics_tls: bool = Field(
        default=True,
        description="Where there is TLS, whether the metrics' port speaks it too; false for a Prometheus that has no "
        "certificates, in a network that can be trusted.",
    )
    callers: Path | None = Field(
        default=None,
        description="File of who may call, by token or by certificate, in which roles and how much (TOML). Without it "
        "anybody may who reaches the port, and load and unload models where that is this machine alone.",
    )
    device: Annotated[str, AfterValidator(device_of)] = Field(
        default="auto",
        description="Where to run: auto, cpu, cuda, or cuda:1 for the second GPU; cuda:0,cuda:1 or cuda:all on "
        "several, each with all models. cuda exits if one is not usable, auto takes one GPU, or else the CPU.",
    )
    kernels: Literal["auto", "off"] = Field(
        default="auto",
        description="Whether models may bring machine code for the GPU, which is used where it gives the recorded "
        "answers; off where whoever writes the models folder is not to run code.",
    )
    threads: int = Field(
        default_factory=usable_cpus,
        ge=1,
        description="CPU threads of a run, and runs of a sampler or of bulk at a time; fewer where other programs need "
        "the cores. By default as many as the CPUs that this process may use, by its affinity and its cgroup's quota.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Whole servers behind the one port, each with its share of the threads and metrics on its "
        "own port, counted up from --metrics-port. For many cores, where single calls keep one Python process busy.",
    )
    share_port: bool = Field(
        default=False,
        description="Listen beside other servers on the same port, each of which gets a part of the connections; for "
        "processes that are started by other means than --processes.",
    )
    max_batch: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most images in one run; more raises throughput, memory and latency.",
    )
    slots: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Images that a pixel-by-pixel sampler paints at a time, on the CPU per thread, on GPUs per GPU; "
        "more raises throughput a little, and the latency of each.",
    )
    max_queued_images: int = Field(
        default=20_000, ge=1, description="Images that may wait per model, role and device before calls are refused."
    )
    max_queued_calls: int = Field(
        default=1_000, ge=1, description="Calls that may wait per model, role and device before others are refused."
    )
    max_queue_ms: float = Field(
        default=50.0,
        ge=0,
        description="Work that may wait per model, role and device before interactive calls are refused; a full batch "
        "always may. More smooths bursts, at the cost of latency under overload.",
    )
    max_sample_count: int = Field(default=10_000, ge=1, description="Most images of one Sample call.")
    max_images: int = Field(default=10_000, ge=1, description="Most images or latents in one call that brings its own.")
    max_message_mib: int = Field(default=64, ge=1, le=2000, description="Largest gRPC message, MiB.")
    min_ping_seconds: float = Field(
        default=5.0,
        ge=0,
        le=7200,
        description="Clients that ping more often than this, on connections that are quiet, are cut off ("
        "too_many_pings); 0: none is.",
    )
    batch_wait_ms: float = Field(
        default=20.0,
        ge=0,
        le=1000,
        description="Longest that a call waits for others to join its batch; a lone one hardly ever.",
    )
    drain_seconds: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="On SIGTERM or SIGINT, how long the end may take: running calls may go on until the last tenth, "
        "0.5 to 2 seconds, in which whoever still waits hears so.",
    )
    poll_seconds: float = Field(
        default=2.0,
        ge=0,
        description="How often to look for versions that came, changed or went; 0: never, only LoadModel counts.",
    )
    load_seconds: float = Field(
        default=300.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a version may take to be loaded, verified and warmed up, and any later run of it, before "
        "it is ended and the version refused; more for large models on slow machines.",
    )
    log_format: LogFormat = Field(
        default="auto",
        description="Log lines for people or for machines; auto is text on a terminal, else json. Text has colours on "
        "a terminal, or as NO_COLOR and FORCE_COLOR say.",
    )
    log_calls: bool = Field(
        default=False,
        description="Log a line for every call, not only for those that fail: what it asked for, and where its time "
        "went.",
    )
    log_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of the calls that go well, the share that --log-calls logs, by chance; of those that fail, all.",
    )
    otlp_endpoint: Annotated[str, AfterValidator(collector_of)] = Field(
        default="",
        description="Where an OpenTelemetry collector takes spans by OTLP over gRPC, as http://localhost:4317; needs "
        "the extra `tracing`. Empty: nothing is traced.",
    )
    trace_ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Of the calls that bring no trace of their caller's, the share that is traced, by chance; of the "
        "others the caller has decided.",
    )

    @field_validator("tls_key", "tls_client_ca")
    @classmethod
    def _belongs_to_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert") is None:
            raise ValueError("is of no use without --tls-cert, which turns TLS on")
        return value

    @field_validator("metrics_port", "health_port")
    @classmethod
    def _is_a_port_of_its_own(cls, value: int | None, info: ValidationInfo) -> int | None:
        taken = [name for name in _PORTS if value and name != info.field_name and info.data.get(name) == value]
        if taken:
            raise ValueError(f"must be another port than {_flags(taken)}")
        return value

    @field_validator("processes")
    @classmethod
    def _leaves_the_ports_of_its_metrics_free(cls, value: int, info: ValidationInfo) -> int:
        first = info.data.get("metrics_port")
        if not first:
            return value
        last = first + value - 1
        if last > LAST_PORT:
            raise ValueError(
                f"needs the ports {first} to {last} for metrics, {LAST_PORT} is the last: choose a lower --metrics-port"
            )
        taken = [name for name in _PORTS if first < (info.data.get(name) or 0) <= last]
        if taken:
            raise ValueError(f"needs the ports {first} to {last} for metrics, and {_flags(taken)} is one of them")
        return value

    @property
    def idle(self) -> dict[str, str]:
        """Settings that are not as by default and do nothing, and for each the one that would have to be set, too."""
        return {
            field: needed
            for field, needed in IDLE_WITHOUT.items()
            if getattr(self, field) != type(self).model_fields[field].default and not getattr(self, needed)
        }

    @property
    def model_folders(self) -> dict[str, Path]:
        """The folders of models by the flags that name them: a model of the first hides those of its name below."""
        more = {"--base-models": self.base_models} if self.base_models not in (None, self.models) else {}
        return {"--models": self.models} | more

    @property
    def max_message_bytes(self) -> int:
        return self.max_message_mib * 2**20
