"""The boards, their panels and queries: what is watched, and how to read it.

`$instance`, `$model` and `$version` are regular expressions that whoever looks chooses; `$__rate_interval` is a time of
a few scrapes, which Grafana knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Of one server process; of one role of one model version.
SERVER = 'job="ancestral", instance=~"$instance"'
LANE = f'{SERVER}, model=~"$model", version=~"$version"'
MODEL = f'{SERVER}, model=~"$model"'
RATE = "[$__rate_interval]"

# Grafana's names of units.
Unit = Literal["s", "reqps", "percentunit", "bytes", "celsius", "watt", "short", "none"]
Kind = Literal["graph", "stat", "table"]


@dataclass(frozen=True)
class Query:
    """legend: of each series, with {{label}} for what it is of."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """runbook: a file in deploy/runbooks, without .md. thresholds: from which values on it is worth a look, and is bad;
    with `low_is_bad` below which values. width: of 24 columns.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    runbook: str
    unit: Unit = "short"
    thresholds: tuple[float, float] | None = None
    kind: Kind = "graph"
    width: int = 8
    low_is_bad: bool = False


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels, by their titles."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> list[Panel]:
        return [panel for _, panels in self.rows for panel in panels]


def quantile(q: float, name: str, by: str, labels: str) -> str:
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({name}_bucket{{{labels}}}{RATE})))"


def quantiles(name: str, by: str, labels: str, legend: str, *qs: float) -> tuple[Query, ...]:
    return tuple(Query(quantile(q, name, by, labels), f"p{q * 100:g} {legend}") for q in qs)


def rate(name: str, by: str, labels: str) -> str:
    return f"sum by ({by}) (rate({name}{{{labels}}}{RATE}))"


def _latency(q: float) -> Panel:
    return Panel(
        f"Latency p{q * 100:g} per RPC",
        f"Seconds that {q:.0%} of the calls of a method took at most, from their start in the server to their end. A "
        f"stream "
        "takes as long as it has images, so compare a method with itself.",
        (Query(quantile(q, "grpc_server_handling_seconds", "grpc_method", SERVER), "{{grpc_method}}"),),
        "AncestralLatencyBudgetBurn",
        "s",
    )


QUEUED = Panel(
    "Images that wait",
    "Admitted and not yet begun. Moments of it are how batches come about; if it stays, the server has more work "
    "than it gets done, and refuses soon.",
    (Query(f"sum by (model, role) (ancestral_queued_images{{{LANE}}})", "{{model}} {{role}}"),),
    "AncestralSaturated",
)
REFUSED = Panel(
    "Who is refused",
    "Requests refused before any work: queue_full is too much at a time, deadline is a caller that allows less time "
    "than its work takes. Both are told when to come again.",
    (
        Query(
            rate("ancestral_requests_refused_total", "model, role, reason", LANE),
            "{{model}} {{role}}: {{reason}}",
        ),
    ),
    "AncestralOverloaded",
    "reqps",
    (0.1, 1),
)
DROPPED = Panel(
    "Given up after admission",
    "expired: the deadline passed while the request waited or ran. cancelled: its caller left.",
    (
        Query(
            rate("ancestral_requests_dropped_total", "model, role, reason", LANE),
            "{{model}} {{role}}: {{reason}}",
        ),
    ),
    "AncestralOverloaded",
    "reqps",
    (0.1, 1),
)
CPU = Panel(
    "CPU in use",
    "The share of the CPUs that the process may use. All of it is fine as long as nobody is refused and latencies "
    "stay.",
    (
        Query(
            f"rate(process_cpu_seconds_total{{{SERVER}}}{RATE}) / ancestral_cpus{{{SERVER}}}",
            "{{instance}}",
        ),
    ),
    "AncestralSaturated",
    "percentunit",
    (0.8, 0.95),
)
SLOTS = Panel(
    "Slots in use",
    "The share of a sampler's slots in which a sample is painted. Full slots make further samples wait.",
    (
        Query(
            f"sum by (model, version) (ancestral_slots_in_use{{{LANE}}}) / "
            f"sum by (model, version) (ancestral_slots{{{LANE}}})",
            "{{model}}:{{version}}",
        ),
    ),
    "AncestralSaturated",
    "percentunit",
    (0.8, 0.95),
)
LAG = Panel(
    "Event loop lag p99",
    "How late the thread that reads and answers all calls does what is due. More than a tenth of a second is felt by "
    "every caller: too few CPUs, or too many single calls for one process.",
    (Query(quantile(0.99, "ancestral_event_loop_lag_seconds", "instance", SERVER), "{{instance}}"),),
    "AncestralSaturated",
    "s",
    (0.05, 0.1),
)


def _busiest(name: str) -> tuple[Query, ...]:
    return (Query(f"topk({MOST_CALLERS}, {rate(name, 'caller', SERVER)})", "{{caller}}"),)


# Lines of a panel; the file of callers may name thousands.
MOST_CALLERS = 10
CALLERS = (
    Panel(
        "Calls per second, by caller",
        f"The {MOST_CALLERS} busiest of those whom --callers names, by the names of that file.",
        _busiest("ancestral_caller_calls_total"),
        "AncestralOverloaded",
        "reqps",
    ),
    Panel(
        "Compute, by caller",
        "Seconds per second of runs that a caller's images take, its share of those that others had a part in: who has "
        "the machine.",
        _busiest("ancestral_caller_compute_seconds_total"),
        "AncestralSaturated",
    ),
    Panel(
        "Over quota, by caller",
        "Calls beyond a caller's quota, refused with the delay after which it may come again.",
        _busiest("ancestral_caller_over_quota_total"),
        "AncestralOverloaded",
        "reqps",
        (0.1, 1),
    ),
)

OVERVIEW = Board(
    "ancestral-overview",
    "Ancestral: overview",
    "Whether the service is well: traffic, errors, latency, saturation, refusals.",
    (
        (
            "At a glance",
            (
                Panel(
                    "Servers that answer",
                    "Processes that Prometheus reaches, of those that it knows.",
                    (Query('sum(up{job="ancestral"}) / count(up{job="ancestral"})', "up"),),
                    "AncestralDown",
                    "percentunit",
                    (1, 0.5),
                    "stat",
                    6,
                    low_is_bad=True,
                ),
                Panel(
                    "Model versions that serve",
                    "Over all servers: each counts the versions that it has loaded.",
                    (Query(f"sum(ancestral_model_serving{{{LANE}}})", "serving"),),
                    "AncestralModelDown",
                    "none",
                    None,
                    "stat",
                    6,
                ),
                Panel(
                    "Model versions refused",
                    "Bundles in the models folder that were not fit to serve; the log and ListModels say why.",
                    (Query(f"count(ancestral_model_serving{{{LANE}}} == 0) or vector(0)", "refused"),),
                    "AncestralModelNotServing",
                    "none",
                    (1, 1),
                    "stat",
                    6,
                ),
                Panel(
                    "Calls that fail by our fault",
                    "The share of all calls in five minutes that ended with Internal, Unknown, DataLoss or "
                    "Unavailable. The objective is one in a thousand.",
                    (Query("sum(ancestral:faults:rate5m) / sum(ancestral:calls:rate5m)", "faults"),),
                    "AncestralErrorBudgetBurn",
                    "percentunit",
                    (0.001, 0.0144),
                    "stat",
                    6,
                ),
            ),
        ),
        (
            "Traffic and errors",
            (
                Panel(
                    "Calls per second",
                    "Calls that began, by method; those without any are left out.",
                    (Query(f"{rate('grpc_server_started_total', 'grpc_method', SERVER)} > 0", "{{grpc_method}}"),),
                    "AncestralNoData",
                    "reqps",
                ),
                Panel(
                    "Calls that do not end with OK",
                    "By status code. InvalidArgument, NotFound and Canceled are the callers'; ResourceExhausted is a "
                    "refusal; Internal, Unknown, DataLoss and Unavailable are ours.",
                    (
                        Query(
                            rate("grpc_server_handled_total", "grpc_code", f'{SERVER}, grpc_code!="OK"'),
                            "{{grpc_code}}",
                        ),
                    ),
                    "AncestralErrorBudgetBurn",
                    "reqps",
                ),
                Panel(
                    "Images per second",
                    "Images of the requests that were answered.",
                    (Query(rate("ancestral_images_total", "model, role", LANE), "{{model}} {{role}}"),),
                    "AncestralNoData",
                    "short",
                ),
            ),
        ),
        ("Latency", (_latency(0.5), _latency(0.95), _latency(0.99))),
        ("Saturation", (CPU, SLOTS, LAG)),
        ("Who waits, who is refused", (QUEUED, REFUSED, DROPPED)),
        ("Who calls", CALLERS),
    ),
)

_ROLE = "{{model}}:{{version}} {{role}}"
QUALITY = (
    Panel(
        "Bits per dimension",
        "Of images that were scored or sampled. Scored images that cost more than those of the model's own tests are "
        "unlike them; samples that cost less than test images are duller than they.",
        quantiles("ancestral_bits_per_dim", "model, version, role", LANE, _ROLE, 0.5, 0.9),
        "AncestralInputDrift",
    ),
    Panel(
        "Brightness of inputs",
        "Mean of the last thousand images that were looked at, 0 to 1.",
        (Query(f"ancestral_input_intensity{{{LANE}}}", f"{_ROLE} on {{{{instance}}}}"),),
        "AncestralInputDrift",
        "percentunit",
    ),
    Panel(
        "Brightness of inputs against training",
        "How far it is from that of the training images, in standard deviations of the brightness of one of them. Only "
        "of bundles that say what their training images were like.",
        (Query(f"abs(ancestral_input_shift{{{LANE}}})", f"{_ROLE} on {{{{instance}}}}"),),
        "AncestralInputDrift",
        "short",
        (0.25, 0.5),
    ),
    Panel(
        "Encodings against training: mean",
        "How far the mean of the last thousand encodings is from that of the training images, in their standard "
        "deviations, over all latents.",
        (Query(f"ancestral_latent_shift{{{LANE}}}", f"{_ROLE} on {{{{instance}}}}"),),
        "AncestralLatentDrift",
        "short",
        (0.25, 0.5),
    ),
    Panel(
        "Encodings against training: spread",
        "Their standard deviation in that of the training images, over all latents: 1 is as in training, little is "
        "images that are all alike.",
        (Query(f"ancestral_latent_spread{{{LANE}}}", f"{_ROLE} on {{{{instance}}}}"),),
        "AncestralLatentDrift",
        "short",
        (1.25, 1.5),
    ),
    Panel(
        "Samples that repeat",
        "The share of samples that are nearly identical to one of the last tens, of other noise. More than half is a "
        "sampler that knows fewer than a hundred images.",
        (
            Query(
                f"{rate('ancestral_samples_repeated_total', 'model, version', LANE)} / "
                f"{rate('ancestral_samples_compared_total', 'model, version', LANE)}",
                "{{model}}:{{version}}",
            ),
        ),
        "AncestralSamplesRepeat",
        "percentunit",
        (0.1, 0.5),
    ),
)

MODELS = Board(
    "ancestral-models",
    "Ancestral: models",
    "Each model, version and role: its work, its waiting, its loads.",
    (
        (
            "What serves",
            (
                Panel(
                    "Versions",
                    "What each server has loaded.",
                    (Query(f"ancestral_model_info{{{LANE}}}", ""),),
                    "AncestralModelNotServing",
                    "none",
                    None,
                    "table",
                    12,
                ),
                Panel(
                    "Serving or refused",
                    "1: the version answers calls. 0: it was refused when it was loaded.",
                    (Query(f"ancestral_model_serving{{{LANE}}}", "{{model}}:{{version}} on {{instance}}"),),
                    "AncestralModelNotServing",
                    "none",
                    (1, 1),
                    "graph",
                    12,
                    low_is_bad=True,
                ),
            ),
        ),
        (
            "Work",
            (
                Panel(
                    "Images per second",
                    "Images of the requests that were answered, by model, version and role.",
                    (
                        Query(
                            rate("ancestral_images_total", "model, version, role", LANE),
                            "{{model}}:{{version}} {{role}}",
                        ),
                    ),
                    "AncestralNoData",
                ),
                Panel(
                    "Runs at a time",
                    "How many of a role's graphs run on average: who has the machine. On the CPU a run takes one "
                    "thread or all.",
                    (
                        Query(
                            rate("ancestral_run_seconds_total", "model, version, role", LANE),
                            "{{model}}:{{version}} {{role}}",
                        ),
                    ),
                    "AncestralSaturated",
                ),
                Panel(
                    "Images per run",
                    "Mean of a run's images, without padding; of a role that paints, samples in a row. Large under "
                    "load is what batching is for.",
                    (
                        Query(
                            f"{rate('ancestral_batch_size_sum', 'model, version, role', LANE)} / "
                            f"{rate('ancestral_batch_size_count', 'model, version, role', LANE)}",
                            "{{model}}:{{version}} {{role}}",
                        ),
                    ),
                    "AncestralSaturated",
                ),
            ),
        ),
        (
            "Latency",
            (
                Panel(
                    "In the queue",
                    "Seconds from admission until work on a request began.",
                    quantiles(
                        "ancestral_request_queue_seconds",
                        "model, version, role",
                        LANE,
                        "{{model}}:{{version}} {{role}}",
                        0.5,
                        0.99,
                    ),
                    "AncestralLatencyBudgetBurn",
                    "s",
                ),
                Panel(
                    "In work",
                    "Seconds from the start of work on a request until its last image was ready.",
                    quantiles(
                        "ancestral_request_compute_seconds",
                        "model, version, role",
                        LANE,
                        "{{model}}:{{version}} {{role}}",
                        0.5,
                        0.99,
                    ),
                    "AncestralLatencyBudgetBurn",
                    "s",
                ),
                Panel(
                    "In all",
                    "Seconds from admission to the last image.",
                    quantiles(
                        "ancestral_request_seconds",
                        "model, version, role",
                        LANE,
                        "{{model}}:{{version}} {{role}}",
                        0.5,
                        0.99,
                    ),
                    "AncestralLatencyBudgetBurn",
                    "s",
                ),
            ),
        ),
        ("Who waits, who is refused", (QUEUED, REFUSED, DROPPED)),
        ("Quality and drift", QUALITY),
        (
            "Loads and failures",
            (
                Panel(
                    "Loads, by outcome",
                    "Bundles loaded or refused since the server began.",
                    (
                        Query(
                            f"sum by (model, outcome) (ancestral_model_loads_total{{{MODEL}}})",
                            "{{model}}: {{outcome}}",
                        ),
                    ),
                    "AncestralBundleRefused",
                    "none",
                ),
                Panel(
                    "Verifications, by outcome",
                    "Bundles whose recorded answers were compared with what their graphs give here. One that differs "
                    "is refused.",
                    (
                        Query(
                            f"sum by (model, outcome) (ancestral_model_verification_seconds_count{{{MODEL}}})",
                            "{{model}}: {{outcome}}",
                        ),
                    ),
                    "AncestralVerificationFailed",
                    "none",
                ),
                Panel(
                    "Seconds of a load, of its verification",
                    "Mean since the server began. A load that takes longer than --load-seconds is refused.",
                    tuple(
                        Query(
                            f'sum by (model) (ancestral_model_{what}_seconds_sum{{{MODEL}, outcome="{outcome}"}}) / '
                            f'sum by (model) (ancestral_model_{what}_seconds_count{{{MODEL}, outcome="{outcome}"}})',
                            f"{{{{model}}}}: {what}",
                        )
                        for what, outcome in (("load", "loaded"), ("verification", "passed"))
                    ),
                    "AncestralBundleRefused",
                    "s",
                ),
                Panel(
                    "Versions that drain",
                    "Replaced or removed, with calls to finish. They keep their memory until the last call has ended.",
                    (Query(f"sum by (model, version) (ancestral_model_draining{{{LANE}}})", "{{model}}:{{version}}"),),
                    "AncestralSlowDrain",
                    "none",
                    (1, 2),
                ),
                Panel(
                    "Lanes begun anew",
                    "Failures outside of a run, in an hour. Whoever was waiting heard Unavailable or Internal.",
                    (
                        Query(
                            f"sum by (model, version, role) (increase(ancestral_lane_restarts_total{{{LANE}}}[1h]))",
                            "{{model}}:{{version}} {{role}}",
                        ),
                    ),
                    "AncestralLaneRestarts",
                    "none",
                    (1, 3),
                ),
                Panel(
                    "Runs that did not fit into memory",
                    "In an hour. They were done again in parts; nobody heard of it, unless not even one image fits.",
                    (
                        Query(
                            f"sum by (model, version, role) (increase(ancestral_out_of_memory_total{{{LANE}}}[1h]))",
                            "{{model}}:{{version}} {{role}}",
                        ),
                    ),
                    "AncestralOutOfMemory",
                    "none",
                    (1, 10),
                ),
            ),
        ),
    ),
)

_FIRST_ROW = "ancestral_first_row_seconds"
_SAMPLING = f'{LANE}, role="sample"'

SAMPLING = Board(
    "ancestral-sampling",
    "Ancestral: sampling",
    "Samplers: slots, rows, how long until something is seen, and whether all get their turn.",
    (
        (
            "Slots and rows",
            (
                SLOTS,
                Panel(
                    "Samples being painted",
                    "Slots in use, beside those that there are.",
                    (
                        Query(
                            f"sum by (model, version) (ancestral_slots_in_use{{{LANE}}})",
                            "{{model}}:{{version}} in use",
                        ),
                        Query(f"sum by (model, version) (ancestral_slots{{{LANE}}})", "{{model}}:{{version}} slots"),
                    ),
                    "AncestralSaturated",
                    "none",
                ),
                Panel(
                    "Rows per second",
                    "Image rows painted: the speed of a sampler, whatever the size of its images.",
                    (Query(rate("ancestral_rows_painted_total", "model, version", LANE), "{{model}}:{{version}}"),),
                    "AncestralNoData",
                ),
                Panel(
                    "Samples in a row's run",
                    "Mean. The more samples share a run, the more of them are painted per second.",
                    (
                        Query(
                            f"{rate('ancestral_batch_size_sum', 'model, version', _SAMPLING)} / "
                            f"{rate('ancestral_batch_size_count', 'model, version', _SAMPLING)}",
                            "{{model}}:{{version}}",
                        ),
                    ),
                    "AncestralSaturated",
                ),
                Panel(
                    "Images sampled per second",
                    "Images of the requests that were answered.",
                    (Query(rate("ancestral_images_total", "model, version", _SAMPLING), "{{model}}:{{version}}"),),
                    "AncestralNoData",
                ),
                Panel(
                    "Images that wait for a slot",
                    "Admitted and not yet begun.",
                    (
                        Query(
                            f"sum by (model, version) (ancestral_queued_images{{{_SAMPLING}}})", "{{model}}:{{version}}"
                        ),
                    ),
                    "AncestralSaturated",
                ),
            ),
        ),
        (
            "How long",
            (
                Panel(
                    "Until the first row",
                    "Seconds from admission until a request's first image row was painted: what somebody who watches "
                    "waits.",
                    quantiles(_FIRST_ROW, "model, version", LANE, "{{model}}:{{version}}", 0.5, 0.99),
                    "AncestralLatencyBudgetBurn",
                    "s",
                ),
                Panel(
                    "A whole sampling",
                    "Seconds from admission until the last image of a request was ready; requests of many images "
                    "take long.",
                    quantiles(
                        "ancestral_request_seconds", "model, version", _SAMPLING, "{{model}}:{{version}}", 0.5, 0.99
                    ),
                    "AncestralLatencyBudgetBurn",
                    "s",
                ),
                Panel(
                    "Fairness",
                    "How many times longer than the median the slowest hundredth of the requests waits for its first "
                    "row. It grows where large requests keep small ones waiting: slots that are kept free for "
                    "newcomers prevent it.",
                    (
                        Query(
                            f"{quantile(0.99, _FIRST_ROW, 'model, version', LANE)} / "
                            f"{quantile(0.5, _FIRST_ROW, 'model, version', LANE)}",
                            "{{model}}:{{version}}",
                        ),
                    ),
                    "AncestralSaturated",
                    "short",
                    (10, 100),
                ),
            ),
        ),
        (
            "Streams and refusals",
            (
                Panel(
                    "Messages of streams per second",
                    "Rows, images and progress that SampleStream has sent.",
                    (
                        Query(
                            rate("grpc_server_msg_sent_total", "instance", f'{SERVER}, grpc_method="SampleStream"'),
                            "{{instance}}",
                        ),
                    ),
                    "AncestralNoData",
                ),
                REFUSED,
                DROPPED,
            ),
        ),
    ),
)

_GPU = "{{instance}} GPU {{gpu}}"
GPU = (
    Panel(
        "GPUs",
        "Those that the servers may use. None where there is none, or where NVIDIA's management library is missing.",
        (Query(f"ancestral_gpu_info{{{SERVER}}}", ""),),
        "AncestralGpuLost",
        "none",
        None,
        "table",
        12,
    ),
    Panel(
        "GPUs that answer",
        "1 if the GPU answers, 0 if it was there and does not any more.",
        (Query(f"ancestral_gpu_up{{{SERVER}}}", _GPU),),
        "AncestralGpuLost",
        "none",
        (1, 1),
        "graph",
        12,
        low_is_bad=True,
    ),
    Panel(
        "GPU in use",
        "The share of the time in which something runs on the GPU, whosever it is, however little of the GPU it takes.",
        (Query(f"ancestral_gpu_utilization_ratio{{{SERVER}}}", _GPU),),
        "AncestralSaturated",
        "percentunit",
    ),
    Panel(
        "GPU memory, share taken",
        "By whomever. onnxruntime keeps what it has taken; beyond all of it runs are done again in parts.",
        (Query(f"ancestral_gpu_memory_used_bytes{{{SERVER}}} / ancestral_gpu_memory_total_bytes{{{SERVER}}}", _GPU),),
        "AncestralOutOfMemory",
        "percentunit",
        (0.9, 0.97),
    ),
    Panel(
        "GPU memory",
        "Taken, by whomever, beside what there is.",
        (
            Query(f"ancestral_gpu_memory_used_bytes{{{SERVER}}}", f"{_GPU} taken"),
            Query(f"ancestral_gpu_memory_total_bytes{{{SERVER}}}", f"{_GPU} all"),
        ),
        "AncestralOutOfMemory",
        "bytes",
    ),
    Panel(
        "GPU temperature",
        "Beyond some 85 to 90 °C a GPU slows itself down: see whether its power falls with it.",
        (Query(f"ancestral_gpu_temperature_celsius{{{SERVER}}}", _GPU),),
        "AncestralGpuLost",
        "celsius",
        (80, 88),
        width=12,
    ),
    Panel(
        "GPU power",
        "What the GPU draws. Near its limit it clocks lower.",
        (Query(f"ancestral_gpu_power_watts{{{SERVER}}}", _GPU),),
        "AncestralGpuLost",
        "watt",
        width=12,
    ),
)

MACHINE = Board(
    "ancestral-machine",
    "Ancestral: machine and device",
    "What the server processes use, of what they may.",
    (
        (
            "Processes",
            (
                Panel(
                    "What runs the graphs",
                    "The device, and the threads of a run.",
                    (Query(f"ancestral_device_info{{{SERVER}}}", ""),),
                    "AncestralDown",
                    "none",
                    None,
                    "table",
                    12,
                ),
                Panel(
                    "Seconds since the start",
                    "It falls to zero where a process ended and was started again.",
                    (Query(f"time() - process_start_time_seconds{{{SERVER}}}", "{{instance}}"),),
                    "AncestralDown",
                    "s",
                    None,
                    "graph",
                    12,
                ),
            ),
        ),
        (
            "CPU and memory",
            (
                CPU,
                Panel(
                    "CPUs in use",
                    "Beside those that the process may use.",
                    (
                        Query(f"rate(process_cpu_seconds_total{{{SERVER}}}{RATE})", "{{instance}} in use"),
                        Query(f"ancestral_cpus{{{SERVER}}}", "{{instance}} may use"),
                    ),
                    "AncestralSaturated",
                ),
                LAG,
                Panel(
                    "Memory",
                    "Resident, beside what the process may have. It grows with the models that are loaded and with "
                    "the largest batches, and then stays.",
                    (
                        Query(f"process_resident_memory_bytes{{{SERVER}}}", "{{instance}} resident"),
                        Query(f"ancestral_memory_limit_bytes{{{SERVER}}}", "{{instance}} limit"),
                    ),
                    "AncestralMemoryGrowth",
                    "bytes",
                ),
                Panel(
                    "Memory, share of the limit",
                    "At all of it the kernel ends the process.",
                    (
                        Query(
                            f"process_resident_memory_bytes{{{SERVER}}} / ancestral_memory_limit_bytes{{{SERVER}}}",
                            "{{instance}}",
                        ),
                    ),
                    "AncestralMemoryGrowth",
                    "percentunit",
                    (0.8, 0.9),
                ),
                Panel(
                    "Open files",
                    "Connections and files, as a share of what the process may have open.",
                    (
                        Query(
                            f"process_open_fds{{{SERVER}}} / process_max_fds{{{SERVER}}}",
                            "{{instance}}",
                        ),
                    ),
                    "AncestralSaturated",
                    "percentunit",
                    (0.5, 0.8),
                ),
            ),
        ),
        ("GPU", GPU),
        (
            "Ends and scrapes",
            (
                Panel(
                    "Servers that stop",
                    "1 from the signal to stop on, while calls that were let in are finished.",
                    (Query(f"ancestral_server_stopping{{{SERVER}}}", "{{instance}}"),),
                    "AncestralSlowDrain",
                    "none",
                ),
                Panel(
                    "Seconds of a scrape",
                    "From Prometheus' side. Scrapes grow with the models that are loaded.",
                    (Query(f"scrape_duration_seconds{{{SERVER}}}", "{{instance}}"),),
                    "AncestralNoData",
                    "s",
                    (1, 5),
                ),
                Panel(
                    "Samples of a scrape",
                    "How many values each process shows.",
                    (Query(f"scrape_samples_scraped{{{SERVER}}}", "{{instance}}"),),
                    "AncestralNoData",
                    "none",
                ),
            ),
        ),
    ),
)

BOARDS = (OVERVIEW, MODELS, SAMPLING, MACHINE)
