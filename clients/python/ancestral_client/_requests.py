"""What requests of all kinds have in common. Every check that needs no server is made before one is asked. Pure."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ancestral.v1 import priority_pb2, tensor_pb2
from ancestral_client import _arguments, _arrays, _wire


class Requests:
    """Those of one priority. Messages are to have at most so many bytes."""

    def __init__(self, max_message_bytes: int, priority: priority_pb2.Priority.ValueType) -> None:
        self._priority = priority
        self._max_message_bytes = max_message_bytes

    def head(self, model: str, version: int) -> dict[str, Any]:
        """The fields that every request has, by name."""
        return {
            "model": _arguments.name_of("model", model),
            "version": _arguments.version_of(version),
            "priority": self._priority,
        }

    def tensor(self, field: str, batch: NDArray[Any]) -> tensor_pb2.Tensor:
        """The tensor of a batch; InvalidArgument, about `field`, where it is too large for a message."""
        _arrays.fits_message(field, batch, self._max_message_bytes)
        return _wire.pack(batch)


def of_part(labels: list[int] | None, first: int, count: int) -> list[int] | None:
    """The labels of a part of the images; one that is for all is for each part."""
    return labels[first : first + count] if labels is not None and len(labels) > 1 else labels
