"""The checks that need no server, and the axes that callers may leave out. Pure: no channel, no state.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral_client.errors import InvalidArgument, invalid

_MAX_INT64 = 2**63 - 1


def image_array(images: ArrayLike) -> NDArray[np.uint8]:
    """`images` as an array; InvalidArgument unless they are 8-bit and at least one."""
    array = np.asarray(images)
    if array.dtype != np.uint8:
        hint = "; scale to 0..255 and round first" if array.dtype.kind in "fb" else ""
        raise invalid("images", f"must be uint8 with values 0 to 255, not {array.dtype}{hint}")
    if array.size == 0:
        raise invalid("images", f"has shape {list(array.shape)}: no image in it")
    return array


def image_batch(array: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """`array` as [N,H,W,C], or None if it does not fit the model's `shape` (H, W, C).

    Takes [N,H,W,C], one image [H,W,C], and with C = 1 also [N,H,W] and [H,W].
    """
    plain = shape[:2] if shape[2] == 1 else None
    if array.ndim == 4 and array.shape[1:] == shape:
        return array
    if array.ndim == 3 and array.shape == shape:
        return array[np.newaxis]
    if array.ndim == 3 and array.shape[1:] == plain:
        return array[..., np.newaxis]
    if array.ndim == 2 and array.shape == plain:
        return array[np.newaxis, ..., np.newaxis]
    return None


def wrong_shape(array: NDArray[np.uint8], shape: tuple[int, int, int], model: str) -> InvalidArgument:
    """The error for images that `image_batch` cannot fit."""
    height, width, channels = shape
    accepted = [f"[N,{height},{width},{channels}]", f"[{height},{width},{channels}]"]
    if channels == 1:
        accepted += [f"[N,{height},{width}]", f"[{height},{width}]"]
    return invalid("images", f"has shape {list(array.shape)}; {model} takes {', '.join(accepted)}")


def latent_batch(latents: ArrayLike) -> NDArray[np.float32]:
    """`latents` as [N,Z] float32; takes [N,Z] and one latent [Z] of any real dtype."""
    array = np.asarray(latents)
    if array.dtype.kind not in "fiu":
        raise invalid("latents", f"must be numbers, not {array.dtype}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise invalid("latents", f"has shape {list(array.shape)}; must be [N,Z] or [Z]")
    batch = np.atleast_2d(array).astype("<f4")
    if not np.isfinite(batch).all():
        raise invalid("latents", "has a value that is not finite")
    return batch


def version_of(version: int) -> int:
    """A version for the wire."""
    if not 0 <= version <= _MAX_INT64:
        raise invalid("version", f"is {version}; must be at least 1, or 0 for the highest that is served")
    return int(version)


def seed_of(name: str, seed: int) -> int:
    """A seed for the wire; `name` is its field."""
    if not 0 <= seed <= _MAX_INT64:
        raise invalid(name, f"is {seed}; must be 0 to 2^63 - 1")
    return int(seed)


def timeout_of(timeout: float) -> float | None:
    """Seconds for gRPC, whose None means for ever."""
    if not timeout > 0:
        raise invalid("timeout", f"is {timeout}; must be above 0 seconds (math.inf: no limit)")
    return None if math.isinf(timeout) else float(timeout)
