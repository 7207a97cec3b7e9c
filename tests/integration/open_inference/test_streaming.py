"""ModelStreamInfer: many requests on one stream, images as they finish, and errors that end nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest

import toybundle
from inference import open_inference_service_pb2 as oip
from openinference import Stub, arrays, ask, infer, some_images, with_parameters
from running import PATIENT, ServerProcess
from waiting import PATIENCE, until


class Conversation:
    """An open stream: requests go out one by one, and answers are waited for."""

    def __init__(self, stub: Stub, **options: Any) -> None:
        self._requests: SimpleQueue[oip.ModelInferRequest | None] = SimpleQueue()
        self._answers = stub.ModelStreamInfer(iter(self._requests.get, None), timeout=PATIENCE, **options)

    def ask(self, *requests: oip.ModelInferRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def next(self) -> oip.ModelStreamInferResponse:
        return next(self._answers)

    def end(self) -> list[oip.ModelStreamInferResponse]:
        self._requests.put(None)
        return list(self._answers)


def stream(stub: Stub, requests: Iterable[oip.ModelInferRequest], **options: Any) -> list[oip.ModelStreamInferResponse]:
    return list(stub.ModelStreamInfer(iter(requests), timeout=PATIENCE, **options))


def images_of(responses: Iterable[oip.ModelStreamInferResponse], name: str = "image") -> dict[int, Any]:
    """Rows of a request to what they are."""
    replies = [response.infer_response for response in responses]
    return {reply.parameters["row"].int64_param: arrays(reply)[name] for reply in replies}


def test_each_request_gets_what_modelinfer_gives_and_one_response_each_in_their_order(stub: Stub) -> None:
    # More of them, and more images, than a stream reads ahead.
    requests = [ask("vae", id=f"{i}", image=some_images(1 + i % 90, seed=i)) for i in range(150)]
    requests[70] = ask("tally.score", id="70", image=some_images(3, (4, 3, 1)))
    responses = stream(stub, requests)
    assert [response.infer_response.id for response in responses] == [str(i) for i in range(150)]
    for i in (0, 69, 70, 149):
        reply = responses[i].infer_response
        assert not responses[i].error_message
        assert reply.parameters["triton_final_response"].bool_param
        wanted = infer(stub, requests[i])
        assert {name: array.tobytes() for name, array in arrays(reply).items()} == {
            name: array.tobytes() for name, array in wanted.items()
        }


@pytest.mark.parametrize(("model", "parameters"), [("labelled", {"label": 2, "temperature": 0.5}), ("vae.sample", {})])
def test_samples_come_each_by_itself(stub: Stub, model: str, parameters: dict[str, Any]) -> None:
    # One of them twice; more than one run has.
    index = np.append(np.random.default_rng(0).permutation(90), 7)
    request = with_parameters(ask(model, id="mine", index=index), seed=11, **parameters)
    responses = stream(stub, [request])
    replies = [response.infer_response for response in responses]
    assert [reply.parameters["triton_final_response"].bool_param for reply in replies] == [False] * 90 + [True]
    assert {(reply.id, reply.model_name, reply.parameters["seed"].int64_param) for reply in replies} == {
        ("mine", model, 11)
    }
    assert all(index[r.parameters["row"].int64_param] == r.parameters["index"].int64_param for r in replies)
    wanted = infer(stub, request)
    for name, array in wanted.items():
        found = images_of(responses, name)
        assert np.array_equal(np.concatenate([found[row] for row in range(91)]), array)


def test_an_image_comes_before_the_last_is_painted(tmp_path: Any) -> None:
    toybundle.write(tmp_path)
    with ServerProcess(tmp_path, *PATIENT, "--slots", "1") as server, grpc.insecure_channel(server.address) as channel:
        talk = Conversation(Stub(channel))
        talk.ask(ask("tally.sample", id="long", index=np.arange(9_000)))
        assert talk.next().infer_response.id == "long"
        # Somebody else is answered beside it, on the same stream, and what is left is given up when the caller leaves.
        talk.ask(ask("tally.encode", id="short", image=some_images(1, (4, 3, 1))))
        while (reply := talk.next().infer_response).id != "short":
            assert not reply.parameters["triton_final_response"].bool_param
        talk._answers.cancel()
        until(lambda: server.metric("ancestral_queued_images", model="tally", version="1", role="sample") == 0)


BAD: list[tuple[oip.ModelInferRequest, str]] = [
    (ask("nobody", id="b"), "no model 'nobody'"),
    (ask("tally", id="b", picture=some_images(1)), "inputs[0].name: is 'picture', there is no such input"),
    (ask("tally.sample", id="b", index=np.array([-1])), "raw_input_contents[0]: holds -1 in row 0"),
    (with_parameters(ask("vae", id="b", image=some_images(1)), timeout=1), "deadline"),
    (ask("labelled", id="b", index=np.arange(2)), "parameters[label]: is not set"),
    (ask("tally", id="b" * 300), "id: has 300 characters, must have at most 256"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_what_is_wrong_with_a_request_is_told_and_the_stream_goes_on(
    stub: Stub, bad: oip.ModelInferRequest, words: str
) -> None:
    talk = Conversation(stub)
    good = ask("tally", id="good", image=some_images(2, (4, 3, 1)))
    for _ in range(2):
        talk.ask(bad)
        told = talk.next()
        assert words in told.error_message
        assert told.error_message.endswith(f"(request {bad.id[:256]})")
        assert (told.infer_response.id, told.infer_response.model_name) == (bad.id[:256], bad.model_name)
        assert not told.infer_response.outputs
        talk.ask(good)
        assert talk.next().infer_response.id == "good"
    assert talk.end() == []


def test_a_message_that_cannot_be_parsed_is_told_and_the_stream_goes_on(channel: grpc.Channel) -> None:
    raw: Any = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=oip.ModelStreamInferResponse.FromString,
    )
    good = ask("tally", id="good", image=some_images(1, (4, 3, 1))).SerializeToString()
    first, second = raw(iter([b"\xff\xff", good]), timeout=PATIENCE)
    assert first.error_message.startswith("request: is a message that cannot be parsed")
    assert second.infer_response.id == "good"


def test_who_asks_for_a_status_gets_the_first_error_as_one(stub: Stub) -> None:
    good, bad = ask("tally", id="good", image=some_images(1, (4, 3, 1))), ask("nobody")
    answers = stub.ModelStreamInfer(
        iter([good, bad, good]), timeout=PATIENCE, metadata=(("triton_grpc_error", "true"),)
    )
    assert next(answers).infer_response.id == "good"
    with pytest.raises(grpc.RpcError, match="no model 'nobody'") as failure:
        next(answers)
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_stream_without_requests_ends_well(stub: Stub) -> None:
    assert stream(stub, []) == []


def test_a_server_that_stops_answers_what_it_has_read(toy_models: Any) -> None:
    with ServerProcess(toy_models, *PATIENT) as server, grpc.insecure_channel(server.address) as channel:
        talk, idle = Conversation(Stub(channel)), Conversation(Stub(channel))
        request = ask("tally.sample", id="long", index=np.arange(3_000))
        talk.ask(request)
        idle.ask(ask("tally", image=some_images(1, (4, 3, 1))))
        idle.next()
        received = [talk.next()]
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError, match="shutting down") as failure:
            idle.next()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError, match="shutting down"):
            received.extend(iter(talk.next, None))
        stopping.join()
    assert sorted(images_of(received)) == list(range(3_000))


def test_a_full_lane_is_felt_as_backpressure(toy_models: Any) -> None:
    """Requests that would be refused one by one."""
    flags = ("--max-queued-calls", "1", "--max-queue-ms", "3600000", "--max-batch", "4")
    with ServerProcess(toy_models, *flags) as server, grpc.insecure_channel(server.address) as channel:

        def requests() -> Iterator[oip.ModelInferRequest]:
            for i in range(60):
                image = some_images(5, (4, 3, 1), seed=i)
                yield with_parameters(ask("tally", id=str(i), image=image), priority=2)

        responses = stream(Stub(channel), requests())
    assert [response.error_message for response in responses] == [""] * 60
