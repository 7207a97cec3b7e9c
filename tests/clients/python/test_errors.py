"""From a status and its google.rpc details to an exception, over a real channel."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

import ancestral_client as ac
from ancestral.v1 import model_service_pb2
from fakeserver import FakeServer
from waiting import PATIENCE


@pytest.fixture
def client(fake_server: FakeServer) -> Iterator[ac.Client]:
    with ac.Client(fake_server.address, timeout=60) as client:
        yield client


def status_of(code: int, message: str, *details: Any) -> Any:
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return rpc_status.to_status(status_pb2.Status(code=code, message=message, details=packed))


def fail(fake: FakeServer, code: int, message: str, *details: Any) -> None:
    """Lets every call fail with this status."""
    status = status_of(code, message, *details)

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(status)
        raise AssertionError("abort returned")

    fake.answer = answer


def raised(client: ac.Client) -> ac.AncestralError:
    with pytest.raises(ac.AncestralError) as caught:
        client.models()
    # gRPC's own exception says nothing more: it is not shown in the traceback.
    assert caught.value.__suppress_context__
    return caught.value


def because(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="ancestral")


def test_a_wrong_argument_names_its_fields(client: ac.Client, fake_server: FakeServer) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="count", description="is 0, must be 1 to 10")
    fail(
        fake_server,
        code_pb2.INVALID_ARGUMENT,
        "count: is 0",
        because("INVALID_ARGUMENT"),
        error_details_pb2.BadRequest(field_violations=[violation]),
        error_details_pb2.RequestInfo(request_id="r-1"),
    )
    error = raised(client)
    assert isinstance(error, ac.InvalidArgument)
    assert isinstance(error, ValueError)
    assert error.violations == (ac.FieldViolation("count", "is 0, must be 1 to 10"),)
    assert error.request_id == "r-1"
    assert error.reason == "INVALID_ARGUMENT"
    assert str(error) == "count: is 0"


def test_an_unknown_model(client: ac.Client, fake_server: FakeServer) -> None:
    resource = error_details_pb2.ResourceInfo(resource_type="model", resource_name="m:3")
    fail(fake_server, code_pb2.NOT_FOUND, "no model m", because("MODEL_NOT_FOUND"), resource)
    error = raised(client)
    assert isinstance(error, ac.NotFound)
    assert error.resource == "m:3"


def test_a_missing_role_and_a_missing_call_differ(client: ac.Client, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.UNIMPLEMENTED, "m cannot encode", because("ROLE_NOT_SUPPORTED"))
    assert isinstance(raised(client), ac.RoleNotSupported)
    fail(fake_server, code_pb2.UNIMPLEMENTED, "Method not found!")
    error = raised(client)
    assert type(error) is ac.Unimplemented
    assert fake_server.address in str(error)


def test_one_of_several_servers_cannot_change_its_models(client: ac.Client, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.FAILED_PRECONDITION, "one of several on its port", because("PORT_SHARED"))
    error = raised(client)
    assert type(error) is ac.Unimplemented
    assert str(error) == "one of several on its port"


def test_overload_says_when_to_try_again(fake_server: FakeServer) -> None:
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    fail(fake_server, code_pb2.RESOURCE_EXHAUSTED, "queue full", because("QUEUE_FULL"), delay)
    with ac.Client(fake_server.address, retry_seconds=1) as client:
        error = raised(client)
    assert isinstance(error, ac.Overloaded)
    assert error.retry_after == 1.5
    assert len(fake_server.calls) == 1, "an overloaded server must not be asked again at once"


def test_overload_is_waited_for_as_long_as_the_server_says(
    clock: Any, client: ac.Client, fake_server: FakeServer
) -> None:
    def second_time(request: bytes, context: grpc.ServicerContext) -> bytes:
        if len(fake_server.calls) < 2:
            details = (because("QUEUE_FULL"), error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1)))
            context.abort_with_status(status_of(code_pb2.RESOURCE_EXHAUSTED, "queue full", *details))
        return model_service_pb2.ListModelsResponse().SerializeToString()

    fake_server.answer = second_time
    assert client.models() == []
    assert clock.now >= 1


def test_a_reply_above_the_limit_is_no_overload(fake_server: FakeServer) -> None:
    fake_server.answer = lambda request, context: bytes(2000)
    with ac.Client(fake_server.address, max_message_bytes=1000) as small:
        error = raised(small)
    assert isinstance(error, ac.MessageTooLarge)
    assert "2000" in str(error)


def test_a_request_above_the_limit_is_no_overload(fake_server: FakeServer) -> None:
    with ac.Client(fake_server.address, max_message_bytes=1000) as small, pytest.raises(ac.MessageTooLarge):
        small.decode("m", [[0.0] * 1000])
    assert fake_server.calls == []


def test_no_answer_in_time(client: ac.Client, fake_server: FakeServer) -> None:
    over = threading.Event()

    def silent(request: bytes, context: grpc.ServicerContext) -> bytes:
        over.wait(PATIENCE)
        return b""

    client.models()
    fake_server.answer = silent
    try:
        with pytest.raises(ac.DeadlineExceeded, match=r"no answer from 127.* within 0\.3 s") as caught:
            client.models(timeout=0.3)
    finally:
        over.set()
    assert isinstance(caught.value, TimeoutError)
    # On a busy machine the call may not have arrived in that time.
    assert {metadata["x-request-id"] for metadata in fake_server.metadata[1:]} <= {caught.value.request_id}
    assert len(caught.value.request_id) == 32


def test_a_server_that_gives_up_says_why(client: ac.Client, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.DEADLINE_EXCEEDED, "waited 3 s in the queue", because("EXPIRED_IN_QUEUE"))
    error = raised(client)
    assert isinstance(error, ac.DeadlineExceeded)
    assert str(error) == "waited 3 s in the queue"


def test_nothing_listens() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can take the port, and nobody answers
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with ac.Client(address) as client, pytest.raises(ac.Unavailable) as caught:
            client.models()
    assert str(caught.value) == f"nothing listens at {address}; start a server with: make serve"
    assert isinstance(caught.value, ConnectionError)


def test_a_host_that_does_not_exist() -> None:
    with ac.Client("no-such-host.invalid:8500", timeout=60) as client, pytest.raises(ac.Unavailable):
        client.models()


@pytest.mark.usefixtures("clock")
def test_what_is_unavailable_is_tried_again(client: ac.Client, fake_server: FakeServer) -> None:
    def third_time(request: bytes, context: grpc.ServicerContext) -> bytes:
        if len(fake_server.calls) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        return model_service_pb2.ListModelsResponse().SerializeToString()

    fake_server.answer = third_time
    assert client.models() == []
    assert len(fake_server.calls) == 3
    ids = {metadata["x-request-id"] for metadata in fake_server.metadata}
    assert len(ids) == 1, "all attempts are one request"


@pytest.mark.usefixtures("clock")
def test_what_stays_unavailable_is_said_with_the_servers_words(client: ac.Client, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.UNAVAILABLE, "m:1 does not serve: bad hash", because("NOT_SERVING"))
    error = raised(client)
    assert isinstance(error, ac.Unavailable)
    assert str(error) == "m:1 does not serve: bad hash"
    assert len(fake_server.calls) == 4


@pytest.mark.usefixtures("clock")
def test_what_is_gone_is_waited_for_only_where_it_was_before(fake_server: FakeServer) -> None:
    def aborting(reason: str) -> None:
        fail(fake_server, code_pb2.UNAVAILABLE, "no", *([because(reason)] if reason else []))

    with ac.Client(fake_server.address, timeout=PATIENCE, retry_seconds=3) as client:
        for reason, attempts in (
            ("NOT_SERVING", {4}),
            ("", {5, 6}),
            ("SERVER_DRAINING", {5, 6}),
            ("STOPPING", {5, 6}),
        ):
            aborting(reason)
            fake_server.calls.clear()
            assert isinstance(raised(client), ac.Unavailable)
            assert len(fake_server.calls) in attempts, reason
    fake_server.calls.clear()
    with ac.Client(fake_server.address, retry_seconds=0) as client:
        raised(client)
    assert len(fake_server.calls) == 1


def test_the_deadline_bounds_the_attempts(clock: Any, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.UNAVAILABLE, "gone")
    with ac.Client(fake_server.address, timeout=30, retry_seconds=600) as client:
        # The last attempt may have so little time left that its deadline comes first.
        assert isinstance(raised(client), ac.Unavailable | ac.DeadlineExceeded)
    assert len(fake_server.calls) > 5
    assert 20 < clock.now <= 30


def test_a_call_that_was_cancelled(client: ac.Client, fake_server: FakeServer) -> None:
    fail(fake_server, code_pb2.CANCELLED, "stopped")
    assert isinstance(raised(client), ac.Cancelled)


@pytest.mark.parametrize("code", [code_pb2.INTERNAL, code_pb2.UNKNOWN, code_pb2.DATA_LOSS, code_pb2.ABORTED])
def test_the_servers_own_faults(client: ac.Client, fake_server: FakeServer, code: int) -> None:
    fail(fake_server, code, "a run failed")
    error = raised(client)
    assert isinstance(error, ac.ServerFault)
    assert code_pb2.Code.Name(code) in str(error)
    assert error.request_id == fake_server.metadata[0]["x-request-id"]


def test_details_that_contradict_the_status_are_left_out(client: ac.Client, fake_server: FakeServer) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        wrong = status_pb2.Status(code=code_pb2.INTERNAL, message="other").SerializeToString()
        context.set_trailing_metadata((("grpc-status-details-bin", wrong),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
        raise AssertionError("abort returned")

    fake_server.answer = answer
    error = raised(client)
    assert isinstance(error, ac.NotFound)
    assert error.resource == ""


def test_details_that_cannot_be_parsed_are_left_out(client: ac.Client, fake_server: FakeServer) -> None:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
        raise AssertionError("abort returned")

    fake_server.answer = answer
    assert isinstance(raised(client), ac.NotFound)
