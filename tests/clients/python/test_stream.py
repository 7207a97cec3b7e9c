"""Streams: against the real server where it can be provoked, else against one that answers as told."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import model_service_pb2
from ancestral_client import (
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    PaintedRow,
    SampledImage,
    SampleStream,
    ServerFault,
    Unavailable,
    Unimplemented,
    _wire,
)
from fakeserver import FakeServer, Painter, image
from running import ServerProcess
from waiting import PATIENCE


@pytest.fixture
def client(fake_server: FakeServer) -> Iterator[Client]:
    with Client(fake_server.address, timeout=PATIENCE / 2) as client:
        yield client


def test_the_real_server_streams_what_sample_returns(toy_server: ServerProcess) -> None:
    with Client(toy_server.address) as client:
        whole = client.sample("tally", 6, seed=7, first_index=3)
        with client.sample_stream("tally", 6, seed=7, first_index=3, progress=True) as events:
            rows: dict[int, list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]] = {}
            images = {}
            for event in events:
                if isinstance(event, PaintedRow):
                    assert event.row == len(rows.setdefault(event.index, []))
                    assert event.pixels.shape == (3, 1)
                    rows[event.index].append(event.pixels)
                else:
                    assert event.index not in images
                    images[event.index] = event
                    assert np.array_equal(np.stack(rows[event.index]), event.image)
                assert (event.info.model, event.info.version) == ("tally", 1)
                assert len(event.info.request_id) == 32
    assert sorted(images) == list(range(3, 9))
    assert whole.log_likelihood is not None
    for index, found in images.items():
        assert found.seed == 7
        assert np.array_equal(found.image, whole.images[index - 3])
        assert found.log_likelihood == whole.log_likelihood[index - 3]


def test_without_progress_there_are_only_images(toy_server: ServerProcess) -> None:
    with Client(toy_server.address) as client:
        events = list(client.sample_stream("tally", 3))
    assert all(isinstance(event, SampledImage) for event in events)
    assert len({event.index for event in events}) == 3


def test_a_wrong_value_is_an_error_of_the_call_or_of_its_first_event(toy_server: ServerProcess) -> None:
    with Client(toy_server.address) as client:
        with pytest.raises(InvalidArgument, match="count: is 0"):
            client.sample_stream("tally", 0)
        stream = client.sample_stream("tally", 2**30)
        with pytest.raises(InvalidArgument) as caught:
            next(stream)
    assert caught.value.violations[0].field == "sample.count"
    assert caught.value.request_id
    assert caught.value.__suppress_context__


def test_leaving_the_loop_stops_the_server(client: Client, fake_server: FakeServer) -> None:
    painter = Painter(fake_server)
    for event in client.sample_stream("m", 2):
        assert event.index == 0
        break
    assert painter.was_stopped()


def test_an_error_in_the_loop_stops_the_server_at_the_end_of_the_with_block(
    client: Client, fake_server: FakeServer
) -> None:
    painter = Painter(fake_server)
    stream = client.sample_stream("m", 2)

    def fail() -> None:
        with stream:
            next(stream)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert painter.was_stopped()
    assert next(stream, None) is None


def test_close_may_be_called_at_any_time_and_ends_the_iteration(client: Client, fake_server: FakeServer) -> None:
    painter = Painter(fake_server)
    stream = client.sample_stream("m", 2)
    next(stream)
    stream.close()
    stream.close()
    assert painter.was_stopped()
    assert list(stream) == []


def test_close_ends_the_wait_of_another_thread(client: Client, fake_server: FakeServer) -> None:
    painter = Painter(fake_server)
    stream = client.sample_stream("m", 2)
    next(stream)
    timer = threading.Timer(0.2, stream.close)
    timer.start()
    assert list(stream) == []
    timer.join()
    assert painter.was_stopped()


def test_ctrl_c_stops_the_server_although_the_stream_is_kept(client: Client, fake_server: FakeServer) -> None:
    """As in a notebook, where names outlive the cell."""
    painter = Painter(fake_server)
    stream = client.sample_stream("m", 2)
    next(stream)
    timer = threading.Timer(0.3, _thread.interrupt_main)

    def wait_until_interrupted() -> None:
        timer.start()
        next(stream)

    with pytest.raises(KeyboardInterrupt):
        wait_until_interrupted()
    timer.join()
    assert painter.was_stopped()


def test_closing_the_client_is_no_end_but_an_error(fake_server: FakeServer) -> None:
    Painter(fake_server)
    client = Client(fake_server.address)
    stream = client.sample_stream("m", 2)
    next(stream)
    client.close()
    with pytest.raises(Cancelled):
        next(stream)


def test_the_deadline_is_that_of_the_whole_stream(client: Client, fake_server: FakeServer) -> None:
    Painter(fake_server)
    stream = client.sample_stream("m", 2, timeout=0.5)
    told: list[SampledImage | PaintedRow] = []
    with pytest.raises(DeadlineExceeded, match=r"within 0\.5 s") as caught:
        told.extend(stream)  # keeps those before the failure
    # On a busy machine the call may not have arrived in that time, nor the first image.
    assert [event.index for event in told] in ([0], [])
    assert {metadata["x-request-id"] for metadata in fake_server.metadata} <= {caught.value.request_id}
    assert list(stream) == [], "an error is told once"


def test_the_clients_deadline_holds_unless_the_call_has_its_own(fake_server: FakeServer) -> None:
    Painter(fake_server)
    with Client(fake_server.address, timeout=0.5) as client, pytest.raises(DeadlineExceeded):
        list(client.sample_stream("m", 2))


def test_a_server_that_goes_away_midway_and_is_not_waited_for(fake_server: FakeServer) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield image(0)
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    fake_server.stream = answer
    with Client(fake_server.address, retry_seconds=0) as client:
        stream = client.sample_stream("m", 2)
        assert next(stream).index == 0
        with pytest.raises(Unavailable, match="draining"):
            next(stream)
    assert list(stream) == []


def row(index: int, number: int) -> bytes:
    painted = pb.PaintedRow(index=index, row=number, pixels=_wire.pack(np.zeros((3, 1), np.uint8)))
    return pb.SampleStreamResponse(row=painted).SerializeToString()


def test_what_is_missing_is_asked_for_again_and_everything_is_told_once(
    client: Client, fake_server: FakeServer
) -> None:
    requests: list[pb.SampleRequest] = []
    replies = [
        [row(5, 0), row(6, 0), row(5, 1), image(5), image(7)],
        [row(6, 0), row(6, 1), image(6), image(7)],
        [row(8, 0), image(8)],
    ]

    def answer(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        requests.append(pb.SampleStreamRequest.FromString(request).sample)
        yield from replies[len(requests) - 1]
        if len(requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    fake_server.stream = answer
    given, known = np.arange(48, dtype=np.uint8).reshape(4, 4, 3, 1), np.ones((1, 4, 3, 1), bool)
    fake_server.answer = lambda request, context: shape_reply()
    events = list(client.sample_stream("m", 4, seed=7, first_index=5, given=given, known=known, progress=True))
    told = [(e.index, e.row) if isinstance(e, PaintedRow) else e.index for e in events]
    assert told == [(5, 0), (6, 0), (5, 1), 5, 7, (6, 1), 6, (8, 0), 8]
    assert [(r.first_index, r.count, r.seed) for r in requests] == [(5, 4, 7), (6, 3, 7), (8, 1, 7)]
    for request in requests:
        assert np.array_equal(_wire.unpack(request.given), given[request.first_index - 5 :])
        assert np.array_equal(_wire.unpack(request.known), known)


def shape_reply() -> bytes:
    reply = model_service_pb2.GetModelResponse()
    image = reply.model.bundle.image
    image.height, image.width, image.channels = 4, 3, 1
    return reply.SerializeToString()


def test_what_is_unavailable_before_the_first_event_is_tried_again(client: Client, fake_server: FakeServer) -> None:
    seeds = []

    def third_time(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        seeds.append(pb.SampleStreamRequest.FromString(request).sample.seed)
        if len(fake_server.calls) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        yield image(0)

    fake_server.stream = third_time
    assert len(list(client.sample_stream("m", 1))) == 1
    assert len(seeds) == 3
    assert len(set(seeds)) == 1, "all attempts ask for the same images"


def test_an_older_server_does_not_know_the_call(client: Client, fake_server: FakeServer) -> None:
    fake_server.stream = lambda request, context: context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    with pytest.raises(Unimplemented, match="does not know this call"):
        next(client.sample_stream("m", 1))


def test_a_stream_that_lacks_images_is_a_fault_and_not_an_end(client: Client, fake_server: FakeServer) -> None:
    fake_server.stream = lambda request, context: iter([image(0), image(1)])
    stream = client.sample_stream("m", 3)
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(ServerFault, match="1 of 3 images missing"):
        next(stream)
    assert list(stream) == []


def test_events_of_a_newer_server_are_passed_over(client: Client, fake_server: FakeServer) -> None:
    fake_server.stream = lambda request, context: iter([b"", pb.SampleStreamResponse().SerializeToString(), image(0)])
    assert [event.index for event in client.sample_stream("m", 1)] == [0]


def test_a_model_without_likelihoods(client: Client, fake_server: FakeServer) -> None:
    fake_server.stream = lambda request, context: iter([image(0)])
    (event,) = client.sample_stream("m", 1)
    assert isinstance(event, SampledImage)
    assert event.log_likelihood is None


def test_a_stream_may_be_named_in_types(client: Client) -> None:
    assert isinstance(client.sample_stream("m", 1), SampleStream)
