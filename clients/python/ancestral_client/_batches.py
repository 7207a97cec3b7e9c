"""Images as [N,H,W,C], whatever axes the caller left out."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral_client import _arrays
from ancestral_client.errors import RoleNotSupported
from ancestral_client.results import Limits, Model

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Shape = tuple[int, int, int]


class Batches:
    """Fits arrays to the shapes (H, W, C) of models.

    `ask(model, version, timeout)` describes a model; it is called once per model, and again when an array does not
    fit: a newer version of the model may take other images.
    """

    def __init__(self, ask: Callable[[str, int, float | None], Awaitable[Model]]) -> None:
        self._ask = ask
        self._models: dict[tuple[str, int], Model] = {}

    def limits(self, model: str, version: int) -> Limits | None:
        """What one call may ask for, of a model whose shape was asked for; None where that is not known."""
        known = self._models.get((model, version))
        return None if known is None else known.limits

    async def images(
        self,
        field: str,
        images: ArrayLike,
        model: str,
        version: int,
        timeout: float | None,
        scale: float | None = None,
    ) -> NDArray[np.uint8]:
        """`images` as [N,H,W,C] uint8; `scale` as in `_arrays.image_array`."""
        fit = _arrays.picture_batch if _arrays.are_pictures(images) else _arrays.image_batch
        return await self._fit(field, _arrays.image_array(field, images, scale), fit, model, version, timeout)

    async def mask(
        self, field: str, mask: ArrayLike, model: str, version: int, timeout: float | None
    ) -> NDArray[np.bool_]:
        """`mask` as [N,H,W,C] bool."""
        return await self._fit(field, _arrays.mask_array(field, mask), _arrays.mask_batch, model, version, timeout)

    async def check_role(self, role: str, model: str, version: int, timeout: float | None) -> None:
        """RoleNotSupported if a model whose shape was asked for cannot do that: before the images are sent."""
        known = self._models.get((model, version))
        if known is None or role in known.roles or not known.roles:
            return
        found = await self._ask(model, version, timeout)  # a newer version may have it
        self._models[model, version] = found
        if role not in found.roles:
            can = ", ".join(sorted(found.roles))
            raise RoleNotSupported(
                f"model {model} (version {found.version}) has no role {role!r}; it has {can}",
                reason="ROLE_NOT_SUPPORTED",
            )

    async def _fit(
        self,
        field: str,
        array: NDArray[_Scalar],
        fit: Callable[[NDArray[_Scalar], _Shape], NDArray[_Scalar] | None],
        model: str,
        version: int,
        timeout: float | None,
    ) -> NDArray[_Scalar]:
        known = self._models.get((model, version))
        batch = None if known is None else fit(array, known.image_shape)
        if batch is not None:
            return batch
        found = await self._ask(model, version, timeout)
        shape = found.image_shape
        if math.prod(shape) == 0:  # a version whose manifest could not be read has no shape; the call says why
            return array
        self._models[model, version] = found
        batch = fit(array, shape)
        if batch is None:
            raise _arrays.wrong_shape(field, array, shape, model)
        return batch
