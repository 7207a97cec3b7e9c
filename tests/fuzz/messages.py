"""Messages that no caller should send: valid ones of any type, made by protobuf reflection, and damage to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import toybundle
from ancestral.v1 import tensor_pb2

Random = np.random.Generator

INTEGERS = (0, 1, 2, 3, -1, 255, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)
REALS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e-45, 1e38, -3e38, float("inf"), float("-inf"), float("nan"))
STRINGS = (
    "",
    "nobody",
    "tally.encode",
    "tally:1",
    "../../etc/passwd",
    "a\x00b",
    "é" * 50,
    "🦆",
    "%s%n{}",
    "x" * 70_000,
)
BITS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}
# Names of fields that say which model is meant, in our services and in the Open Inference Protocol.
MODEL_FIELDS = ("model", "name", "model_name")


def pick(random: Random, choices: Any) -> Any:
    return choices[int(random.integers(len(choices)))]


def likely(message_type: type[Message], random: Random, model: str) -> Message:
    """A message that may well be right: models are named, tensors hold images, the rest is small."""
    message = message_type()
    _fill(message, random, model, depth=0)
    return message


def _fill(message: Message, random: Random, model: str, depth: int) -> None:
    if isinstance_of(message, "ancestral.v1.Tensor"):
        images = int(random.integers(1, 4))
        shape = (images, toybundle.HEIGHT, toybundle.WIDTH, 1)
        dtype = tensor_pb2.DATA_TYPE_UINT8 if random.random() < 0.8 else tensor_pb2.DATA_TYPE_BOOL
        data = random.integers(0, 256 if dtype == tensor_pb2.DATA_TYPE_UINT8 else 2, shape, dtype=np.uint8)
        message.MergeFromString(tensor_pb2.Tensor(dtype=dtype, shape=shape, data=data.tobytes()).SerializeToString())
        return
    for field in message.DESCRIPTOR.fields:
        always = field.name in (*MODEL_FIELDS, "images", "sample", "count")
        if depth < 4 and (always or random.random() < 0.25):
            _set(message, field, random, model, depth, extreme=False)


def isinstance_of(message: Message, name: str) -> bool:
    """By name: a class made from reflection is another one than the generated."""
    return bool(message.DESCRIPTOR.full_name == name)


def _set(message: Message, field: Any, random: Random, model: str, depth: int, *, extreme: bool) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries = getattr(message, field.name)
        value_field = field.message_type.fields_by_name["value"]
        key = _scalar(field.message_type.fields_by_name["key"], random, model, extreme=extreme)
        if value_field.message_type is not None:
            _fill(entries[key], random, model, depth + 1)
        else:
            entries[key] = _scalar(value_field, random, model, extreme=extreme)
    elif field.is_repeated:
        size = int(random.choice([0, 1, 3000])) if extreme else int(random.integers(1, 3))
        message.ClearField(field.name)
        items = getattr(message, field.name)
        if field.message_type is not None:
            for _ in range(min(size, 300)):
                _fill(items.add(), random, model, depth + 1)
        else:
            items.extend([_scalar(field, random, model, extreme=extreme)] * size)
    elif field.message_type is not None:
        _fill(getattr(message, field.name), random, model, depth + 1)
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, _scalar(field, random, model, extreme=extreme))


def _scalar(field: FieldDescriptor, random: Random, model: str, *, extreme: bool) -> Any:
    if field.type in BITS:
        least, most = BITS[field.type]
        small = (1, 2, 0) if field.name != "version" else (0, 1)
        fitting = [n for n in INTEGERS if least <= n <= most]
        return pick(random, fitting if extreme else small)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return pick(random, REALS if extreme else (0.0, 0.5, 1.0))
        case FieldDescriptor.CPPTYPE_BOOL:
            return bool(random.integers(2))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.bytes(int(pick(random, (0, 1, 12, 5000) if extreme else (12, 24))))
    if extreme:
        return pick(random, STRINGS)
    return model if field.name in MODEL_FIELDS else pick(random, STRINGS[:4])


def change(message: Message, random: Random, model: str) -> None:
    """Set one field somewhere in the message to something absurd, or clear it."""
    inside = message
    while True:
        below = [v for f, v in inside.ListFields() if f.message_type is not None and not f.is_repeated]
        if not below or random.random() < 0.4:
            break
        inside = pick(random, below)
    if not inside.DESCRIPTOR.fields:
        return
    field = pick(random, inside.DESCRIPTOR.fields)
    if random.random() < 0.15:
        inside.ClearField(field.name)
    else:
        _set(inside, field, random, model, 0, extreme=True)


def damage(content: bytes, random: Random) -> bytes:
    """Bits flipped, ends cut, parts doubled, other bytes altogether."""
    data = bytearray(content)
    match random.integers(5):
        case 0:
            return random.bytes(int(random.integers(200)))
        case 1:
            return bytes(data[: int(random.integers(len(data) + 1))])
        case 2:
            at = int(random.integers(len(data) + 1))
            return bytes(data[:at] + random.bytes(int(random.integers(1, 20))) + data[at:])
        case 3:
            return bytes(data + data[int(random.integers(len(data) + 1)) :])
        case _:
            for _ in range(int(random.integers(1, 9)) if data else 0):
                data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
            return bytes(data)


def request(message_type: type[Message], random: Random, model: str) -> Message | bytes:
    """One request: seldom right, mostly absurd in a field or three, sometimes no message at all."""
    message = likely(message_type, random, model)
    kind = random.random()
    if kind < 0.65:
        for _ in range(int(random.integers(1, 4))):
            change(message, random, model)
    return damage(message.SerializeToString(), random) if kind > 0.55 and kind < 0.95 else message


def metadata(random: Random) -> tuple[tuple[str, str | bytes], ...]:
    match random.integers(20):
        case 0:
            return (("x-request-id", "v" * int(pick(random, (1, 128, 129, 7000, 20_000, 200_000)))),)
        case 1:
            return tuple((f"x-{i}", "v") for i in range(int(pick(random, (10, 300, 3000)))))
        case 2:
            return (("x-request-id-bin", random.bytes(500)), ("grpc-status-details-bin", random.bytes(50)))
        case 3:
            return (("x-request-id", pick(random, ("", " ", "a b", "~" * 128, '{"a":1}'))),) * 3
    return ()


# ---- below gRPC: frames of HTTP/2 (RFC 9113, section 4) and what is none

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(path: str, **more: str) -> bytes:
    """A header block of literals without indexing or Huffman code (RFC 7541, section 6.2.2)."""
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
    fields |= {"content-type": "application/grpc"} | {name.replace("_", "-"): value for name, value in more.items()}
    # Lengths below 127 take one byte.
    return b"".join(b"\x00" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())


def connection(path: str, message: bytes, random: Random) -> bytes:
    """All that a client says on a connection: nearly right, or garbage."""
    extra: dict[str, str] = pick(
        random,
        (
            {},
            {"grpc_timeout": pick(random, ("1S", "0n", "-1S", "99999999H", "1", "abc", ""))},
            {"grpc_encoding": pick(random, ("gzip", "deflate", "nonsense", "identity"))},
            {"grpc_accept_encoding": "x" * 100},
            {"content_length": "-1"},
        ),
    )
    flag, length = (
        (0, len(message)) if random.random() < 0.7 else (int(random.integers(256)), int(random.integers(2**32)))
    )
    body = bytes([flag]) + length.to_bytes(4, "big") + message
    frames = [
        frame(4, 0, 0, b""),
        frame(1, 4, 1, headers(path, **extra)),
        *(frame(0, 0, 1, body[at : at + 16_000]) for at in range(0, len(body), 16_000)),
        frame(0, 1, 1, b""),
        frame(3, 0, 1, (8).to_bytes(4, "big")),
        frame(6, 0, 0, bytes(8)),
        frame(8, 0, 0, (2**31 - 1).to_bytes(4, "big")),
        frame(int(random.integers(256)), int(random.integers(256)), int(random.integers(2**31)), random.bytes(30)),
    ]
    match random.integers(4):
        case 0:
            said = PREFACE + b"".join(frames[:4])
        case 1:
            order = random.permutation(len(frames))
            said = PREFACE + b"".join(frames[i] for i in order)
        case 2:
            said = random.bytes(int(random.integers(1, 2000)))
        case _:
            said = PREFACE + damage(b"".join(frames), random)
    return said
