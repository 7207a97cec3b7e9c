"""The answers to parts of the same images, put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ancestral_client.errors import ServerFault
from ancestral_client.results import Classes, Decoding, Encoding, Features, Info, Scores

_Part = TypeVar("_Part", Encoding, Decoding, Scores, Features, Classes)


class Joining(Generic[_Part]):
    """The answers to parts of the same images, put together as they come.

    Where it is known how many images there are in all, the whole is filled part by part, and held once.
    """

    def __init__(self, total: int | None = None) -> None:
        self.count = 0
        """Images that were answered."""
        self._total = total
        self._first: _Part | None = None
        self._info: Info | None = None
        # By name of the field: the whole, or its parts.
        self._whole: dict[str, NDArray[Any]] = {}
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def add(self, part: _Part) -> int:
        """How many images were answered now."""
        values: dict[str, Any] = {field.name: getattr(part, field.name) for field in fields(part)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        if self._first is None:
            self._first = part
            self._parts = {name: [] for name in arrays}
            if self._total is not None:
                size = (self._total,)
                self._whole = {name: np.empty(size + one.shape[1:], one.dtype) for name, one in arrays.items()}
        rows = len(next(iter(arrays.values())))
        for name, array in arrays.items():
            if self._total is None:
                self._parts[name].append(array)
            else:
                self._whole[name][self.count : self.count + rows] = array
        self.count += rows
        self._info = part.info if self._info is None else _together(self._info, part.info)
        return self.count

    def result(self) -> _Part:
        """All of at least one part; ServerFault if it is not as many as it should be."""
        assert self._first is not None, "somebody asks only for what was answered"
        assert self._info is not None
        if self._total not in (None, self.count):
            raise ServerFault(f"the server answered {self.count} of {self._total} images")
        joined: dict[str, Any] = self._whole or {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return replace(self._first, **joined, info=self._info)


def _together(first: Info, then: Info) -> Info:
    """What two replies to parts of the same say about both."""
    return replace(
        first,
        queue_seconds=first.queue_seconds + then.queue_seconds,
        compute_seconds=first.compute_seconds + then.compute_seconds,
        total_seconds=first.total_seconds + then.total_seconds,
        batch_size=max(first.batch_size, then.batch_size),
    )


def joined(parts: Iterable[_Part]) -> _Part:
    """The answers to parts of the same images as one, with the times of all; at least one."""
    joining = Joining[_Part]()
    for part in parts:
        joining.add(part)
    return joining.result()
