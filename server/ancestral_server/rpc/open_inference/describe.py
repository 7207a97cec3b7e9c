"""What the protocol tells about a model: its tensors, its configuration, its statistics."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ancestral_server.catalog import ModelVersion
from ancestral_server.engine.stats import LaneStats
from ancestral_server.rpc.roles.base import Role
from ancestral_server.rpc.roles.signature import Port
from ancestral_server.settings import Settings
from inference import model_config_pb2 as config_pb
from inference import open_inference_service_pb2 as oip

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def metadata(name: str, role: Role, device: str, serving: Iterable[ModelVersion]) -> oip.ModelMetadataResponse:
    """`serving`: the versions that answer to the name."""
    known = role.signature
    return oip.ModelMetadataResponse(
        name=name,
        versions=[str(version.version) for version in serving],
        platform=PLATFORM,
        inputs=_tensors(known.inputs.values(), column=True),
        outputs=_tensors(known.outputs.values()),
        properties={"role": role.name, "device": device},
    )


def config(name: str, role: Role, settings: Settings) -> config_pb.ModelConfig:
    known = role.signature
    return config_pb.ModelConfig(
        name=name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=settings.max_sample_count if known.draws else settings.max_images,
        input=[
            config_pb.ModelInput(name=port.name, data_type=_type(port), dims=_dims(port), optional=port.optional)
            for port in known.inputs.values()
        ],
        output=[
            config_pb.ModelOutput(name=port.name, data_type=_type(port), dims=port.shape)
            for port in known.outputs.values()
        ],
        default_model_filename=role.graph,
        dynamic_batching=config_pb.ModelDynamicBatching(
            max_queue_delay_microseconds=round(settings.batch_wait_ms * 1000)
        ),
    )


def statistics(name: str, model: ModelVersion, role: str) -> oip.ModelStatistics:
    stats = model.endpoints[role].stats
    return oip.ModelStatistics(
        name=name,
        version=str(model.version),
        last_inference=_epoch_ms(stats.last_run),
        inference_count=stats.rows,
        execution_count=sum(runs.count for _, runs in stats.sizes()),
        inference_stats=_requests(stats),
        batch_stats=[
            oip.InferBatchStatistics(
                batch_size=size,
                compute_input=_duration(runs.count, runs.input_seconds),
                compute_infer=_duration(runs.count, runs.infer_seconds),
                compute_output=_duration(runs.count, runs.output_seconds),
            )
            for size, runs in stats.sizes()
        ],
    )


def _requests(stats: LaneStats) -> oip.InferStatistics:
    n = stats.requests
    # A request that is split over runs waits between them; that counts as running, so that the stages add up.
    infer = stats.total_seconds - stats.queue_seconds - stats.input_seconds - stats.output_seconds
    return oip.InferStatistics(
        success=_duration(n, stats.total_seconds),
        fail=_duration(stats.failures, stats.failure_seconds),
        queue=_duration(n, stats.queue_seconds),
        compute_input=_duration(n, stats.input_seconds),
        compute_infer=_duration(n, infer),
        compute_output=_duration(n, stats.output_seconds),
    )


def _duration(count: int, seconds: float) -> oip.StatisticDuration:
    # Never negative: parts of requests that are not answered yet count already.
    return oip.StatisticDuration(count=count, ns=max(0, round(seconds * 1e9)))


def _epoch_ms(monotonic: float) -> int:
    """A moment of time.monotonic() as milliseconds since 1970; 0 stays 0, never."""
    return round((time.time() - time.monotonic() + monotonic) * 1000) if monotonic else 0


def _tensors(ports: Iterable[Port], *, column: bool = False) -> list[oip.ModelMetadataResponse.TensorMetadata]:
    return [
        oip.ModelMetadataResponse.TensorMetadata(
            name=port.name, datatype=port.datatype, shape=[-1, *(_dims(port) if column else port.shape)]
        )
        for port in ports
    ]


def _dims(port: Port) -> tuple[int, ...]:
    """Of an input. One value per row is shown as a column: load generators take no dimensions for no elements."""
    return port.shape or (1,)


def _type(port: Port) -> config_pb.DataType.ValueType:
    return config_pb.DataType.Value(f"TYPE_{port.datatype}")
