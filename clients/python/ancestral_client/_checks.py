"""The checks that need no server, and the axes that callers may leave out. Pure: no channel, no state.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.v1 import priority_pb2
from ancestral_client import _address
from ancestral_client.errors import STREAMS, FieldViolation, InvalidArgument, MessageTooLarge, invalid

_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
# What a request needs beside its array.
_ENVELOPE_BYTES = 1024

Priority = Literal["interactive", "batch"]
_PRIORITIES: dict[Priority, priority_pb2.Priority.ValueType] = {
    "interactive": priority_pb2.PRIORITY_INTERACTIVE,
    "batch": priority_pb2.PRIORITY_BATCH,
}

_Scalar = TypeVar("_Scalar", bound=np.generic)


def image_array(field: str, images: ArrayLike) -> NDArray[np.uint8]:
    """`images` as an array; InvalidArgument, about `field`, unless they are 8-bit and at least one."""
    array = np.asarray(images)
    if array.dtype != np.uint8:
        hint = "; scale to 0..255 and round first" if array.dtype.kind in "fb" else ""
        raise invalid(field, f"must be uint8 with values 0 to 255, not {array.dtype}{hint}")
    if array.size == 0:
        raise invalid(field, f"has shape {list(array.shape)}: no image in it")
    return array


def fits_message(field: str, array: NDArray[np.generic], limit: int) -> None:
    """MessageTooLarge unless the array fits a message of `limit` bytes."""
    if array.nbytes > limit - _ENVELOPE_BYTES:
        raise MessageTooLarge(
            f"{field}: {len(array)} × {array.nbytes // len(array)} bytes are above the message limit of {limit}: "
            f"send fewer at once; {STREAMS}",
            violations=(FieldViolation(field, f"has {array.nbytes} bytes, a message holds {limit}"),),
            reason="MESSAGE_TOO_LARGE",
        )


def mask_array(field: str, mask: ArrayLike) -> NDArray[np.bool_]:
    """`mask` as an array; InvalidArgument, about `field`, unless it is bool: a number does not say what it means."""
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise invalid(field, f"must be bool, True for the pixels to keep, not {array.dtype}; compare first: mask > 127")
    return array


def image_batch(array: NDArray[_Scalar], shape: tuple[int, int, int]) -> NDArray[_Scalar] | None:
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


def mask_batch(array: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """`array` as [N,H,W,C], or None if it does not fit the model's `shape` (H, W, C).

    Takes what `image_batch` takes, and whatever C is a mask without channels: it then holds for all of them.
    """
    batch = image_batch(array, shape)
    if batch is None:
        plain = image_batch(array, (*shape[:2], 1))
        batch = None if plain is None else np.broadcast_to(plain, (len(plain), *shape))
    return batch


def wrong_shape(field: str, array: NDArray[np.generic], shape: tuple[int, int, int], model: str) -> InvalidArgument:
    """The error for images that `image_batch` cannot fit, or a mask that `mask_batch` cannot."""
    height, width, channels = shape
    accepted = [f"[N,{height},{width},{channels}]", f"[{height},{width},{channels}]"]
    if channels == 1 or array.dtype == np.bool_:
        accepted += [f"[N,{height},{width}]", f"[{height},{width}]"]
    return invalid(field, f"has shape {list(array.shape)}; {model} takes {', '.join(accepted)}")


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


def labels_of(labels: ArrayLike | None) -> list[int] | None:
    """Classes for the wire: takes [N], or one number for all images, of any whole dtype."""
    if labels is None:
        return None
    array = np.asarray(labels)
    if array.dtype.kind not in "iu":
        raise invalid("labels", f"must be whole numbers, not {array.dtype}")
    if array.ndim > 1 or array.size == 0:
        raise invalid("labels", f"has shape {list(array.shape)}; must be one number or [N]")
    return [label_of("labels", label) for label in np.atleast_1d(array).tolist()]


def label_of(field: str, label: int) -> int:
    """A class for the wire; only the server knows how many the model has."""
    if not 0 <= label <= _MAX_INT32:
        raise invalid(field, f"is {label}; must be 0 to the model's label_count - 1")
    return int(label)


def count_of(field: str, n: int) -> int:
    """A number of images for the wire; only the server knows how many it allows."""
    if not 1 <= n <= _MAX_INT32:
        raise invalid(field, f"is {n}; must be at least 1")
    return int(n)


def first_index_of(first_index: int) -> int:
    """An index in a seed's sequence for the wire."""
    if not 0 <= first_index <= _MAX_INT64:
        raise invalid("first_index", f"is {first_index}; must be 0 to 2^63 - 1")
    return int(first_index)


def version_of(version: int) -> int:
    """A version for the wire."""
    if not 0 <= version <= _MAX_INT64:
        raise invalid("version", f"is {version}; must be at least 1, or 0 for the highest that is served")
    return int(version)


def priority_of(priority: Priority) -> priority_pb2.Priority.ValueType:
    """A priority for the wire."""
    if priority not in _PRIORITIES:
        raise invalid("priority", f"is {priority!r}; must be one of {', '.join(map(repr, _PRIORITIES))}")
    return _PRIORITIES[priority]


def seed_of(name: str, seed: int) -> int:
    """A seed for the wire; `name` is its field."""
    if not 0 <= seed <= _MAX_INT64:
        raise invalid(name, f"is {seed}; must be 0 to 2^63 - 1")
    return int(seed)


def address_of(address: str, field: str = "address") -> str:
    """Where a server is: HOST:PORT or a target of gRPC. `field` is what the error names."""
    try:
        if not isinstance(address, str):
            raise TypeError(address)
        _address.hosts(address)
    except (TypeError, ValueError):
        problem = f"is {address!r}; must be HOST:PORT with a port of 1 to 65535, as localhost:8500 or [::1]:8500"
        raise invalid(field, problem) from None
    return address


def retry_seconds_of(seconds: float) -> float:
    """For how long failures are tried again."""
    if not seconds >= 0:
        raise invalid("retry_seconds", f"is {seconds}; must be at least 0 (no call is tried again)")
    return float(seconds)


def timeout_of(timeout: float) -> float | None:
    """Seconds for gRPC, whose None means for ever."""
    if not timeout > 0:
        raise invalid("timeout", f"is {timeout}; must be above 0 seconds (math.inf: no limit)")
    return None if math.isinf(timeout) else float(timeout)
