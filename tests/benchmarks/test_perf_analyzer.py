"""What perf_analyzer is held against, asked by a client of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

import front_end
import perf_analyzer
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc as oip_grpc
from reference import ECHO, SETTINGS, canned_server, echo_server
from running import ServerProcess
from waiting import PATIENCE

Stub = oip_grpc.GRPCInferenceServiceStub


@pytest.fixture(scope="module")
def replies(untrained_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replies")
    with ServerProcess(untrained_models) as server:
        perf_analyzer.record(server.address, folder)
    return folder


@pytest.mark.parametrize("with_model", [False, True])
def test_the_canned_server_gives_the_replies_of_the_real_one(
    replies: Path, untrained_models: Path, with_model: bool
) -> None:
    encoder = untrained_models / front_end.MODEL / "1"
    with canned_server(replies, encoder if with_model else None) as address, grpc.insecure_channel(address) as channel:
        stub = Stub(channel)
        for _ in range(3):
            reply = stub.ModelInfer(perf_analyzer.infer_request(), timeout=PATIENCE)
        assert reply == oip.ModelInferResponse.FromString((replies / "ModelInfer").read_bytes())
        assert [output.name for output in reply.outputs] == ["mean", "log_variance", "latent"]
        metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name=perf_analyzer.NAME), timeout=PATIENCE)
        assert [output.name for output in metadata.outputs] == [output.name for output in reply.outputs]
        statistics = stub.ModelStatistics(oip.ModelStatisticsRequest(name=perf_analyzer.NAME), timeout=PATIENCE)
        assert statistics.model_stats[0].inference_stats.success.count == 3


def test_references_run_on_the_servers_event_loop_with_its_grpc_settings() -> None:
    with echo_server(7) as address, grpc.insecure_channel(address) as channel:
        ask: Any = channel.unary_unary
        assert ask(ECHO)(b"", timeout=PATIENCE) == bytes(7)
        assert ask(SETTINGS)(b"", timeout=PATIENCE) == b"uvloop, -event_engine_listener"


def test_its_figure_is_read_and_its_complaints_are_passed_on() -> None:
    said = "  Client:\n    Request count: 3000\n    Throughput: 1093.71 infer/sec\n    Avg latency: 900 usec\n"
    assert perf_analyzer.throughput(said) == 1093.71
    with pytest.raises(RuntimeError, match="inconsistent"):
        perf_analyzer.throughput("error: inconsistent batch size\n")


def test_the_report_has_every_figure() -> None:
    figures = {"echo": 1278.4, "canned": 2830.0, "canned_model": 1480.0, "server": 1143.0}
    ratios = {"of_echo": 0.894, "of_canned": 0.404, "of_canned_model": 0.772}
    text = perf_analyzer.markdown({"cores": 2, "rows": [{"concurrency": 8, **figures, **ratios}]})
    assert "| 8 | 1278 | 2830 | 1480 | 1143 | 0.89 | 0.40 | 0.77 |" in text
