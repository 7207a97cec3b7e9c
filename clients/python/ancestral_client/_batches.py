"""Images as [N,H,W,C], whatever axes the caller left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral_client import _checks

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Shape = tuple[int, int, int]


class Batches:
    """Fits arrays to the shapes (H, W, C) of models.

    `ask(model, version, timeout)` gives a model's shape; it is called once per model, and again when an array does not
    fit: a newer version of the model may take other images.
    """

    def __init__(self, ask: Callable[[str, int, float | None], _Shape]) -> None:
        self._ask = ask
        self._shapes: dict[tuple[str, int], _Shape] = {}

    def images(
        self, field: str, images: ArrayLike, model: str, version: int, timeout: float | None
    ) -> NDArray[np.uint8]:
        """`images` as [N,H,W,C] uint8."""
        return self._fit(field, _checks.image_array(field, images), _checks.image_batch, model, version, timeout)

    def mask(self, field: str, mask: ArrayLike, model: str, version: int, timeout: float | None) -> NDArray[np.bool_]:
        """`mask` as [N,H,W,C] bool."""
        return self._fit(field, _checks.mask_array(field, mask), _checks.mask_batch, model, version, timeout)

    def _fit(
        self,
        field: str,
        array: NDArray[_Scalar],
        fit: Callable[[NDArray[_Scalar], _Shape], NDArray[_Scalar] | None],
        model: str,
        version: int,
        timeout: float | None,
    ) -> NDArray[_Scalar]:
        known = self._shapes.get((model, version))
        batch = None if known is None else fit(array, known)
        if batch is not None:
            return batch
        shape = self._ask(model, version, timeout)
        if math.prod(shape) == 0:  # a version whose manifest could not be read has no shape; the call says why
            return array
        self._shapes[model, version] = shape
        batch = fit(array, shape)
        if batch is None:
            raise _checks.wrong_shape(field, array, shape, model)
        return batch
