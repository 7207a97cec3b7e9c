"""The end of the server: whoever was let in is answered, everybody else hears UNAVAILABLE and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

import toybundle
from ancestral.bundle.noise import uniforms_of_range
from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import inference_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from callers import Callers
from inference import open_inference_service_pb2 as oip
from inference import open_inference_service_pb2_grpc
from link import Link
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until
from wire import tensor, toy_images

NO_RETRIES = [("grpc.enable_retries", 0)]
# Seconds of painting, even on a fast machine.
LONG = pb.SampleRequest(model="tally", count=10_000, seed=1)


def begin(server: ServerProcess, channel: grpc.Channel, calls: int = 1) -> list[Any]:
    """Long sampling calls that have reached their lane."""
    stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
    running = [stub.Sample.future(LONG, timeout=3600) for _ in range(calls)]
    until(lambda: server.metric("grpc_server_started_total", grpc_method="Sample") == calls)
    return running


@contextmanager
def held(server: ServerProcess) -> Iterator[tuple[Any, threading.Event]]:
    """A long call whose answer is on its way until the event is set: a server that stops waits for that."""
    with (
        Link(server.address) as link,
        grpc.insecure_channel(link.address, options=NO_RETRIES) as channel,
    ):
        # Connected, and no more.
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        link.answers.clear()
        (call,) = begin(server, channel)
        yield call, link.answers


def logged(server: ServerProcess, event: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_stops_under_load_lose_nobody(toy_models: Path) -> None:
    """`make restarts` does it twenty times."""
    encoders, samplers = 24, 8
    for _ in range(2):
        with ServerProcess(toy_models, "--log-calls", "true", *PATIENT) as server:
            with Callers(server.address, {1: {0}}, encoders, samplers) as callers:
                until(lambda: len(callers.calls) > 2 * (encoders + samplers))
                assert server.stop() == 0
                # Each of them finds nobody there in the end.
                until(lambda: sum(call.code is not grpc.StatusCode.OK for call in callers.calls) > encoders + samplers)
            codes = {call.request_id: call.code for call in callers.calls}
            assert set(codes.values()) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, codes
            assert [call for call in callers.calls if call.wrong] == []
            told = {line["request_id"]: line["code"] for line in logged(server, "call")}
            assert set(told.values()) <= {"OK", "UNAVAILABLE"}
            ours = {identity for identity, code in told.items() if code == "OK"}
            assert ours == {identity for identity, code in codes.items() if code is grpc.StatusCode.OK}


def test_new_calls_are_refused_while_running_ones_finish(toy_models: Path) -> None:
    with ServerProcess(toy_models, *PATIENT) as server:
        with (
            grpc.insecure_channel(server.address, options=NO_RETRIES) as channel,
            held(server) as (running, may_answer),
        ):
            health = health_pb2_grpc.HealthStub(channel)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status != 1)
            for name in ("tally", "tally/1", "ancestral.v1.InferenceService"):
                reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
                assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
            protocol = open_inference_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert protocol.ServerLive(oip.ServerLiveRequest(), timeout=PATIENCE).live
            assert not protocol.ServerReady(oip.ServerReadyRequest(), timeout=PATIENCE).ready
            assert not protocol.ModelReady(oip.ModelReadyRequest(name="tally"), timeout=PATIENCE).ready
            for ask in (
                lambda: inference_service_pb2_grpc.InferenceServiceStub(channel).Sample(
                    pb.SampleRequest(model="tally", count=1), timeout=PATIENCE
                ),
                lambda: model_service_pb2_grpc.ModelServiceStub(channel).LoadModel(
                    model_service_pb2.LoadModelRequest(name="tally"), timeout=PATIENCE
                ),
            ):
                with pytest.raises(grpc.RpcError, match="the server is shutting down") as refusal:
                    ask()
                assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
                status = rpc_status.from_call(refusal.value)
                assert status is not None
                (retry,) = [d for d in status.details if d.Is(error_details_pb2.RetryInfo.DESCRIPTOR)]
                assert error_details_pb2.RetryInfo.FromString(retry.value).retry_delay.ToMilliseconds() == 0
            assert not running.done()
            may_answer.set()
            expected = toybundle.paint(uniforms_of_range(1, 0, 10_000, (4, 3, 1)))[0]
            assert running.result().images.data == expected.tobytes()
        assert server.process.wait(PATIENCE) == 0


# Whoever hears of the end has the time for it, however busy this machine is.
LAST_WORDS = (
    "-c",
    "from ancestral_server import ending; ending.LEAST_WORDS_SECONDS = ending.MOST_WORDS_SECONDS = 60.0\n"
    "from ancestral_server.__main__ import main; main()",
)


def test_whoever_waits_when_the_drain_time_is_over_hears_so(toy_models: Path) -> None:
    slow = ("--slots", "1", "--threads", "1", "--drain-seconds", "60.2")
    flags = (*slow, "--max-queued-images", "50000", "--max-queue-ms", "3600000")
    with (
        ServerProcess(toy_models, *flags, program=LAST_WORDS) as server,
        grpc.insecure_channel(server.address, options=NO_RETRIES) as channel,
    ):
        running = begin(server, channel, 3)
        stream = inference_service_pb2_grpc.InferenceServiceStub(channel).SampleStream(
            pb.SampleStreamRequest(sample=LONG), timeout=3600
        )
        next(stream)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError):  # after what it had already been sent
            deque(stream, maxlen=0)
        # A stream comes to an end of its own, and says where to go on.
        for call, why in [*((call, "shut down") for call in running), (stream, "go on from there")]:
            assert call.code() is grpc.StatusCode.UNAVAILABLE, call
            assert why in (call.details() or "")
    (line,) = logged(server, "the drain time is over")
    assert int(line["calls"]) == len(running)


@pytest.mark.parametrize("flags", [(), ("--processes", "2", "--threads", "2")])
def test_streams_that_nobody_reads_do_not_hold_the_server(toy_models: Path, flags: tuple[str, ...]) -> None:
    """How long it takes is told by numbers, in tests/server/test_ending.py; here, that it ends, and as it should."""
    limits = ("--drain-seconds", "0", "--max-images", "100000", "--max-sample-count", "100000")
    with (
        ServerProcess(toy_models, *limits, *flags) as server,
        grpc.insecure_channel(server.address, options=NO_RETRIES) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        sampling = stub.SampleStream(pb.SampleStreamRequest(sample=pb.SampleRequest(model="tally", count=100_000)))
        encoding = stub.EncodeStream(pb.EncodeStreamRequest(encode=encode_request(10_000)) for _ in range(1000))
        next(sampling)
        next(encoding)
        assert server.stop() == 0
        for stream in (sampling, encoding):
            with pytest.raises(grpc.RpcError):
                deque(stream, maxlen=0)
            assert stream.code() is grpc.StatusCode.UNAVAILABLE
    assert logged(server, "the end took too long, and is broken off") == []


def test_a_watch_of_health_does_not_hold_the_server(toy_models: Path) -> None:
    seen = []
    with ServerProcess(toy_models, *PATIENT) as server, grpc.insecure_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        seen.append(next(watch).status)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError) as ended:
            seen += [reply.status for reply in iter(watch.next, None)]
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert seen == [health_pb2.HealthCheckResponse.SERVING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(toy_models: Path, number: signal.Signals) -> None:
    with (
        ServerProcess(toy_models, *PATIENT) as server,
        held(server) as (running, may_answer),
    ):
        server.process.send_signal(number)
        until(lambda: logged(server, "stopping"))
        assert server.stop(number) == 128 + number
        may_answer.set()
        assert running.code() is grpc.StatusCode.UNAVAILABLE


def test_a_stop_while_models_are_loaded(tmp_path: Path) -> None:
    # Each takes a second to load.
    for version in range(1, 10):
        toybundle.write(tmp_path, version=version, layers=800)
    command = [
        sys.executable,
        "-m",
        "ancestral_server",
        "--models",
        str(tmp_path),
        "--port",
        "0",
        "--metrics-port",
        "0",
    ]
    with subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        assert server.stdout is not None
        assert "model serves" in server.stderr.readline()
        server.terminate()
        rest = threading.Thread(target=server.stderr.read)
        rest.start()
        assert server.wait(PATIENCE) == 0
        rest.join()
        assert server.stdout.read() == ""  # never said that it listens


def encode_request(images: int) -> pb.EncodeRequest:
    return pb.EncodeRequest(model="tally", images=tensor(toy_images(images)))


def test_a_large_answer_on_a_slow_link_arrives_although_the_server_stops(toy_models: Path) -> None:
    with (
        ServerProcess(toy_models, "--max-images", "1000000", *PATIENT) as server,
        Link(server.address, 8e6) as link,
        grpc.insecure_channel(link.address, options=[*NO_RETRIES, ("grpc.max_receive_message_length", -1)]) as channel,
    ):
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        call = stub.Encode.future(encode_request(1_000_000), timeout=600)
        until(lambda: server.metric("grpc_server_msg_received_total", grpc_method="Encode"))
        assert server.stop() == 0
        assert len(call.result().mean.data) == 1_000_000 * 2 * 4


def test_a_caller_on_a_slow_link_that_goes_on_sending_hears_where_its_stream_ended(toy_models: Path) -> None:
    def messages() -> Iterator[pb.EncodeStreamRequest]:
        while not over.is_set():
            yield pb.EncodeStreamRequest(encode=encode_request(1000))

    over, replies = threading.Event(), []
    with (
        ServerProcess(toy_models, *PATIENT) as server,
        Link(server.address, 5e5) as link,
        grpc.insecure_channel(link.address, options=NO_RETRIES) as channel,
    ):
        call = inference_service_pb2_grpc.InferenceServiceStub(channel).EncodeStream(messages(), timeout=600)
        replies += [next(call) for _ in range(20)]
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        with pytest.raises(grpc.RpcError) as failure:
            replies.extend(call)  # keeps those before the failure
        over.set()
        stopped.join()
    assert server.process.returncode == 0
    detail = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(failure.value)
    assert status is not None, failure.value
    assert any(packed.Unpack(detail) for packed in status.details)
    assert detail.reason == "SERVER_DRAINING"
    assert [reply.index for reply in replies] == list(range(int(detail.metadata["next_index"])))
