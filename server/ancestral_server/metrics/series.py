"""The series of methods, of lanes and of the event loop."""

from __future__ import annotations

from ancestral_server.metrics import text
from ancestral_server.metrics.histogram import LockFreeHistogram
from ancestral_server.metrics.instruments import LANE_LABELS, RPC_LABELS, LaneMetrics, MethodMetrics
from ancestral_server.metrics.quality import quality_series


class CallSeries:
    """What is shown of methods, of lanes and of the event loop."""

    def __init__(self) -> None:
        self.methods: dict[tuple[str, ...], MethodMetrics] = {}
        self.lanes: dict[tuple[str, ...], LaneMetrics] = {}
        self.loop_lag = LockFreeHistogram()

    def text(self, open_metrics: bool) -> str:
        # Copies: the loader's thread may add to it.
        methods = {text.labels(RPC_LABELS, values): method for values, method in dict(self.methods).items()}
        lanes = {text.labels(LANE_LABELS, values): lane for values, lane in dict(self.lanes).items()}
        handled = {
            f'grpc_code="{code}",{labels}': count
            for labels, method in methods.items()
            for code, count in dict(method.handled).items()
        }
        return "".join(
            (
                text.counter(
                    "grpc_server_started",
                    "Calls started.",
                    {labels: method.started for labels, method in methods.items()},
                    open_metrics,
                ),
                text.counter(
                    "grpc_server_msg_received",
                    "Messages received.",
                    {labels: method.received for labels, method in methods.items()},
                    open_metrics,
                ),
                text.counter(
                    "grpc_server_msg_sent",
                    "Messages sent.",
                    {labels: method.sent for labels, method in methods.items()},
                    open_metrics,
                ),
                text.counter("grpc_server_handled", "Calls completed, by status code.", handled, open_metrics),
                text.histogram(
                    "grpc_server_handling_seconds",
                    "Seconds from the start of a call in the server to its end.",
                    {labels: method.seconds for labels, method in methods.items()},
                    open_metrics,
                ),
                text.histogram(
                    "ancestral_request_queue_seconds",
                    "Seconds from admission until work on a request began.",
                    {labels: lane.queue_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.histogram(
                    "ancestral_request_compute_seconds",
                    "Seconds from the start of work on a request until its last image was ready.",
                    {labels: lane.compute_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.histogram(
                    "ancestral_request_seconds",
                    "Seconds from admission of a request until its last image was ready: queue and compute seconds.",
                    {labels: lane.request_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.histogram(
                    "ancestral_first_row_seconds",
                    "Seconds from admission of a request of a raster role until its first image row was painted.",
                    {labels: lane.first_row_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.histogram(
                    "ancestral_batch_size",
                    "Images in one run, without padding; of a raster role, samples in one row.",
                    {labels: lane.batch_size for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.counter(
                    "ancestral_images",
                    "Images of the requests that were answered.",
                    {labels: lane.images for labels, lane in lanes.items()},
                    open_metrics,
                ),
                text.counter(
                    "ancestral_rows_painted",
                    "Image rows that a raster role has painted.",
                    {labels: lane.rows_painted for labels, lane in lanes.items() if lane.slots is not None},
                    open_metrics,
                ),
                text.counter(
                    "ancestral_run_seconds",
                    "Seconds in which graphs ran; on the CPU several may run at a time.",
                    {labels: lane.run_seconds for labels, lane in lanes.items()},
                    open_metrics,
                ),
                quality_series({labels: lane.quality for labels, lane in lanes.items()}, open_metrics),
                text.histogram(
                    "ancestral_event_loop_lag_seconds",
                    "How late the event loop, which reads and answers all calls, does what is due; looked at a few "
                    "times a second.",
                    {"": self.loop_lag},
                    open_metrics,
                ),
            )
        )
