"""Requests that repeat an earlier one with other pixels, as most do: what they have in common is read and checked once.

Reading and checking a request is the largest part of what Python does for a single image. Two requests whose bytes are
the same up to their pixels and after them, and as many, are the same message with other pixels: nothing else in it can
differ, not even the lengths that it is cut up by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from ancestral_server.runtime.session import Array

# Forms that are kept: of requests of one length, and of how many lengths.
MOST_OF_A_LENGTH = 4
MOST_LENGTHS = 64
# Of what is larger, reading the pixels is what takes long; and what is said beside them is kept.
MOST_BYTES = 1 << 20
MOST_OTHER_BYTES = 1 << 12
# So many bytes say where the pixels may begin.
_FIRST_BYTES = 32
_OTHER_PIXELS = bytes(range(255, -1, -1))


@dataclass(slots=True, eq=False)
class Form:
    """What requests have in common that differ in their pixels only."""

    # What speaks of the images, without their pixels. Only to be read: it may be that of many requests.
    message: Any
    model: str
    version: int
    # Bytes of pixels.
    size: int
    # What was found out about it, and is true of all such requests: for whoever finds it out.
    plan: Any = None
    # The bytes before and after the pixels.
    head: bytes = b""
    tail: bytes = b""


@dataclass(slots=True, eq=False)
class Request:
    """A request about images; `data` holds its pixels from byte `start` on."""

    form: Form
    data: bytes
    start: int

    def images(self, shape: tuple[int, ...]) -> Array:
        """The pixels as uint8 of that shape, which has to need `form.size` bytes. Nothing is copied."""
        return np.ndarray(shape, np.uint8, self.data, self.start)


class Reader:
    """Parses the requests of one method; DecodeError where they cannot be parsed.

    message: their type; part: the field of it that speaks of images, where that is not the message itself.
    """

    def __init__(self, message: type[Message], part: str = "") -> None:
        self._message = message
        self._part = part
        # By length; and what was before and after the pixels of the last request of a length that was not known.
        self._forms: dict[int, tuple[Form, ...]] = {}
        self._last: dict[int, tuple[bytes, bytes]] = {}

    def __call__(self, raw: bytes) -> Request:
        for form in self._forms.get(len(raw), ()):
            if raw.startswith(form.head) and raw.endswith(form.tail):
                return Request(form, raw, len(form.head))
        form, data = self._read(raw)
        self._remember(form, raw, data)
        return Request(form, data, 0)

    def _read(self, raw: bytes) -> tuple[Form, bytes]:
        """A request of its own, and its pixels."""
        message: Any = self._message.FromString(raw)
        if self._part:
            message = getattr(message, self._part)
        data = message.images.data
        if data:
            message.images.ClearField("data")
        return Form(message, message.model, message.version, len(data)), data

    def _remember(self, form: Form, raw: bytes, data: bytes) -> None:
        """Keep the form of a request that comes a second time: others, such as those with a seed each, never do."""
        if len(raw) > MOST_BYTES or len(raw) - len(data) > MOST_OTHER_BYTES:
            return
        start = raw.find(data[:_FIRST_BYTES])
        head, tail = raw[:start], raw[start + len(data) :]
        if self._last.get(len(raw)) != (head, tail):
            make_room(self._last, MOST_LENGTHS)
            self._last[len(raw)] = head, tail
        elif data and self._holds_pixels(form, head, data.translate(_OTHER_PIXELS), tail):
            form.head, form.tail = head, tail
            known = self._forms.pop(len(raw), ())
            make_room(self._forms, MOST_LENGTHS)
            self._forms[len(raw)] = (form, *known[: MOST_OF_A_LENGTH - 1])

    def _holds_pixels(self, form: Form, head: bytes, others: bytes, tail: bytes) -> bool:
        """Whether other pixels there make the same request with other pixels: the same bytes may be elsewhere too."""
        try:
            found, data = self._read(head + others + tail)
        except DecodeError:
            return False
        return data == others and found.message == form.message


def make_room(kept: dict[Any, Any], most: int) -> None:
    """Let one more be kept, of `most`: forget the first."""
    if len(kept) >= most:
        del kept[next(iter(kept))]
