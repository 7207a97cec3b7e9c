"""The series of methods and lanes as text, in the two formats that Prometheus reads.

Written here and not by the library, which takes tens of times as long for each line, and holds the interpreter
meanwhile: nearly all lines of a scrape are those of histograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, chain

from ancestral_server.metrics.instruments import (
    LANE_LABELS,
    RPC_LABELS,
    LaneMetrics,
    LockFreeHistogram,
    MethodMetrics,
)


class CallSeries:
    """What is shown of methods, of lanes and of the event loop."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, ...], MethodMetrics] = {}
        self.lanes: dict[tuple[str, ...], LaneMetrics] = {}
        self.loop_lag = LockFreeHistogram()

    def text(self, open_metrics: bool) -> str:
        # Copies: the loader's thread may add to it.
        methods = {_labels(RPC_LABELS, values): method for values, method in dict(self.methods).items()}
        lanes = {_labels(LANE_LABELS, values): lane for values, lane in dict(self.lanes).items()}
        quality = {labels: lane.quality for labels, lane in lanes.items()}
        samples = {labels: each for labels, each in quality.items() if each.samples}
        handled = {
            f'grpc_code="{code}",{labels}': count
            for labels, method in methods.items()
            for code, count in dict(method.handled).items()
        }
        return "".join(
            (
                _counter(
                    "grpc_server_started",
                    "Calls started.",
                    {labels: method.started for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter(
                    "grpc_server_msg_received",
                    "Messages received.",
                    {labels: method.received for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter(
                    "grpc_server_msg_sent",
                    "Messages sent.",
                    {labels: method.sent for labels, method in methods.items()},
                    open_metrics,
                ),
                _counter("grpc_server_handled", "Calls completed, by status code.", handled, open_metrics),
                _histogram(
                    "grpc_server_handling_seconds",
                    "Seconds from the start of a call in the server to its end.",
                    {labels: method.seconds for labels, method in methods.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_request_queue_seconds",
                    "Seconds from admission until work on a request began.",
                    {labels: lane.queue_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_request_compute_seconds",
                    "Seconds from the start of work on a request until its last image was ready.",
                    {labels: lane.compute_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_request_seconds",
                    "Seconds from admission of a request until its last image was ready: queue and compute seconds.",
                    {labels: lane.request_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_first_row_seconds",
                    "Seconds from admission of a request of a raster role until its first image row was painted.",
                    {labels: lane.first_row_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_batch_size",
                    "Images in one run, without padding; of a raster role, samples in one row.",
                    {labels: lane.batch_size for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _counter(
                    "ancestral_images",
                    "Images of the requests that were answered.",
                    {labels: lane.images for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _counter(
                    "ancestral_rows_painted",
                    "Image rows that a raster role has painted.",
                    {labels: lane.rows_painted for labels, lane in lanes.items() if lane.slots is not None},
                    open_metrics,
                ),
                _counter(
                    "ancestral_run_seconds",
                    "Seconds in which graphs ran; on the CPU several may run at a time.",
                    {labels: lane.run_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                _counter(
                    "ancestral_images_inspected",
                    "Images of answered requests that were looked at for what is said here of inputs, latents, "
                    "likelihoods and samples: a few of them, a few times a second.",
                    {labels: each.images for labels, each in quality.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_bits_per_dim",
                    "Bits per dimension of inspected images by their model: of those scored, where it is a bound at "
                    "one draw; and of those sampled, whatever the temperature, but no completions.",
                    {labels: each.bits_per_dim for labels, each in quality.items()},
                    open_metrics,
                ),
                _gauge(
                    "ancestral_input_intensity",
                    "Mean brightness of the last thousand inspected images of callers, 0 to 1.",
                    {labels: each.input_intensity for labels, each in quality.items()},
                ),
                _gauge(
                    "ancestral_input_shift",
                    "How much brighter these are than the training images, in standard deviations of the brightness "
                    "of one of those.",
                    {labels: each.input_shift for labels, each in quality.items()},
                ),
                _gauge(
                    "ancestral_latent_shift",
                    "How far the mean encoding of the last thousand inspected images is from that of the training "
                    "images, in standard deviations of one of those; root mean square over the latents.",
                    {labels: each.latent_shift for labels, each in quality.items()},
                ),
                _gauge(
                    "ancestral_latent_spread",
                    "Standard deviation of these encodings, in those of the training images; root mean square over "
                    "the latents.",
                    {labels: each.latent_spread for labels, each in quality.items()},
                ),
                _counter(
                    "ancestral_samples_compared",
                    "Inspected samples, drawn at temperature 1 and whole, that were compared with the last tens of "
                    "others, those of the same seed and index aside.",
                    {labels: each.compared for labels, each in samples.items()},
                    open_metrics,
                ),
                _counter(
                    "ancestral_samples_repeated",
                    "Those of them that are nearly identical to another: 1 % of the range apart on average, or less.",
                    {labels: each.repeated for labels, each in samples.items()},
                    open_metrics,
                ),
                _histogram(
                    "ancestral_event_loop_lag_seconds",
                    "How late the event loop, which reads and answers all calls, does what is due; looked at a few "
                    "times a second.",
                    {"": self.loop_lag},
                    open_metrics,
                ),
            )
        )


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Sorted by name, as the library has them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _counter(name: str, text: str, counts: Mapping[str, float], open_metrics: bool) -> str:
    """Counts by their labels. The two formats name the family differently, and its samples alike."""
    family = name if open_metrics else f"{name}_total"
    lines = [f"{name}_total{{{labels}}} {float(count)}\n" for labels, count in counts.items()]
    return f"# HELP {family} {text}\n# TYPE {family} counter\n" + "".join(lines)


def _gauge(name: str, text: str, values: Mapping[str, float | None]) -> str:
    """Values by their labels, of those that are known."""
    lines = [f"{name}{{{labels}}} {float(value)}\n" for labels, value in values.items() if value is not None]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)


def _histogram(name: str, text: str, histograms: Mapping[str, LockFreeHistogram], open_metrics: bool) -> str:
    """Tallies by their labels, of those that have a value; one of the formats has exemplars, too."""
    lines = [f"# HELP {name} {text}\n# TYPE {name} histogram\n"]
    for labels, histogram in histograms.items():
        counts, total = list(histogram.counts), histogram.total
        if not any(counts):
            continue
        shown = [""] * len(counts)
        if open_metrics and histogram.exemplars:
            for bucket, (value, trace_id, when) in dict(histogram.exemplars).items():
                # What another load of the version has shown is none of these.
                if counts[bucket]:
                    shown[bucket] = f' # {{trace_id="{trace_id}"}} {value} {when:.3f}'
        upto = list(accumulate(counts))
        template = _histogram_template(name, labels, histogram.bounds)
        lines.append(template % (*chain.from_iterable(zip(upto, shown, strict=True)), upto[-1], total))
    return "".join(lines)


# Nearly all that a line has is the same in each scrape: filled in it takes a tenth of the time (34 and 4 ms of CPU for
# 20 models, whose 390 histograms have 16,500 lines). The size is that of 100 models, each of some 20 histograms.
@lru_cache(maxsize=2048)
def _histogram_template(name: str, labels: str, bounds: tuple[float, ...]) -> str:
    """The lines of a histogram, to be filled in: of each bucket the calls up to its bound and its exemplar, then the
    number of all and their sum.
    """
    labels = labels.replace("%", "%%")
    before, own = (f"{labels},", f"{{{labels}}}") if labels else ("", "")
    buckets = "".join(f'{name}_bucket{{{before}le="{bound}"}} %d.0%s\n' for bound in (*bounds, "+Inf"))
    return f"{buckets}{name}_count{own} %d.0\n{name}_sum{own} %s\n"
