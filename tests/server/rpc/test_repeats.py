from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from ancestral.v1 import inference_service_pb2 as pb
from ancestral.v1 import tensor_pb2
from ancestral_server.rpc import repeats
from ancestral_server.rpc.repeats import Reader, Request

PIXELS = 6


def encode(value: int | bytes, model: str = "toy", **fields: Any) -> pb.EncodeRequest:
    data = bytes([value] * PIXELS) if isinstance(value, int) else value
    images = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=[1, 2, 3, 1], data=data)
    return pb.EncodeRequest(model=model, images=images, **fields)


def read(reader: Reader, message: pb.EncodeRequest | bytes) -> Request:
    return reader(message if isinstance(message, bytes) else message.SerializeToString())


def known(reader: Reader) -> list[repeats.Form]:
    return [form for forms in reader._forms.values() for form in forms]


def whole(request: Request) -> pb.EncodeRequest:
    """The message that a request was read from."""
    message = pb.EncodeRequest()
    message.CopyFrom(request.form.message)
    if request.form.size:
        message.images.data = request.images((request.form.size,)).tobytes()
    return message


def test_what_repeats_is_read_once() -> None:
    reader = Reader(pb.EncodeRequest)
    first, second, third, fourth = (read(reader, encode(value)) for value in (1, 2, 3, 4))
    assert first.form is not second.form is third.form is fourth.form
    assert [int(request.images((6,))[0]) for request in (first, second, third, fourth)] == [1, 2, 3, 4]
    assert (third.form.model, third.form.version, third.form.size) == ("toy", 0, 6)
    assert not third.form.message.images.data


def test_images_are_not_copied_and_cannot_be_written_to() -> None:
    reader = Reader(pb.EncodeRequest)
    for _ in range(3):
        images = read(reader, encode(b"abcdef")).images((1, 2, 3, 1))
        assert np.array_equal(images, np.frombuffer(b"abcdef", np.uint8).reshape(1, 2, 3, 1))
        assert not images.flags.writeable
        assert not images.flags.owndata


@pytest.mark.parametrize(
    "other",
    [
        encode(9, model="tox"),
        encode(9, version=1),
        encode(9, draw_seed=1),
        encode(9, priority=2),
        encode(b"1234567"),
        encode(b""),
    ],
    ids=lambda other: str(other).replace("\n", " "),
)
def test_what_differs_in_anything_else_is_another_form(other: pb.EncodeRequest) -> None:
    reader = Reader(pb.EncodeRequest)
    for _ in range(3):
        usual = read(reader, encode(9))
    request = read(reader, other)
    assert request.form is not usual.form
    assert whole(request) == other
    assert read(reader, encode(9)).form is usual.form


def test_a_message_within_a_message() -> None:
    reader = Reader(pb.EncodeStreamRequest, "encode")
    for value in range(4):
        request = reader(pb.EncodeStreamRequest(encode=encode(value)).SerializeToString())
        assert whole(request) == encode(value)
    assert known(reader) == [request.form]
    assert whole(reader(b"")) == pb.EncodeRequest()


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x7fabc", encode(1).SerializeToString()[:-1]])
def test_what_cannot_be_parsed_is_refused_each_time(raw: bytes) -> None:
    reader = Reader(pb.EncodeRequest)
    for _ in range(3):
        read(reader, encode(1))
        with pytest.raises(DecodeError):
            reader(raw)


def test_pixels_that_are_found_elsewhere_first_are_not_mistaken() -> None:
    reader = Reader(pb.EncodeRequest)
    for value in (b"abcdef", b"abcdef", b"abcdef", b"ghijkl"):
        message = encode(value, model="abcdef")
        assert whole(read(reader, message)) == message


def test_of_pixels_that_come_twice_the_last_count_as_in_any_protobuf() -> None:
    """A field that is there twice; the form's head holds the first."""
    reader = Reader(pb.EncodeRequest)
    for value in (1, 1, 1, 2):
        raw = encode(7).SerializeToString() + encode(value).SerializeToString()
        assert whole(reader(raw)) == pb.EncodeRequest.FromString(raw)


def test_requests_with_a_seed_each_leave_nothing_behind() -> None:
    reader = Reader(pb.EncodeRequest)
    for seed in range(100, 120):
        read(reader, encode(b"012345", draw_seed=seed))
    assert known(reader) == []


@pytest.mark.parametrize(
    "request_",
    [
        encode(b"\1" * repeats.MOST_BYTES),
        pb.ScoreRequest(model="toy", images=encode(1).images, labels=[7] * repeats.MOST_OTHER_BYTES),
    ],
    ids=["pixels", "labels"],
)
def test_large_requests_are_not_kept(request_: pb.EncodeRequest | pb.ScoreRequest) -> None:
    reader = Reader(type(request_))
    for _ in range(3):
        request = reader(request_.SerializeToString())
        assert request.images((request.form.size,)).tobytes() == request_.images.data
    assert not reader._forms
    assert not reader._last


def test_so_many_forms_are_kept_and_no_more() -> None:
    reader = Reader(pb.EncodeRequest)
    for length in range(1, repeats.MOST_LENGTHS + 20):
        for _ in range(2):
            for model in ("a", "b", "c", "d", "e", "f"):
                for _ in range(2):
                    read(reader, encode(b"\x80" * length, model=model))
    assert len(known(reader)) <= repeats.MOST_LENGTHS * repeats.MOST_OF_A_LENGTH
    assert len(reader._last) <= repeats.MOST_LENGTHS
    # Those that came last are known.
    assert read(reader, encode(b"\x81" * length, model="f")).form in known(reader)


requests = st.builds(
    encode,
    st.binary(max_size=4),
    model=st.sampled_from(["", "a", "b", "\0"]),
    version=st.integers(0, 1),
    first_index=st.integers(0, 2),
    priority=st.integers(0, 2),
    draw_seed=st.none() | st.integers(0, 1),
)


@given(st.lists(requests.map(lambda request: request.SerializeToString()) | st.binary(max_size=12), max_size=30))
def test_whatever_came_before_a_request_is_read_as_if_it_were_the_first(raws: list[bytes]) -> None:
    reader = Reader(pb.EncodeRequest)
    for raw in raws * 3:
        try:
            expected = pb.EncodeRequest.FromString(raw)
        except DecodeError:
            with pytest.raises(DecodeError):
                reader(raw)
        else:
            assert whole(reader(raw)) == expected
