"""The checks of arrays that need no server, and the axes that callers may leave out. Pure: no channel, no state.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral_client import _arguments
from ancestral_client.errors import STREAMS, FieldViolation, InvalidArgument, MessageTooLarge, invalid

# What a request needs beside its array.
_ENVELOPE_BYTES = 1024

_Scalar = TypeVar("_Scalar", bound=np.generic)


def array_of(field: str, value: ArrayLike) -> NDArray[Any]:
    """`value` as an array; InvalidArgument, about `field`, if it is none.

    Takes what numpy takes, tensors on any device, whether they record gradients or not, and Pillow's pictures.
    """
    try:
        array = np.asanyarray(_plain(field, value))
    except InvalidArgument:
        raise
    except Exception as error:  # whatever another library has against it
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        ragged = "inhomogeneous" in said or "inconsistent" in said
        why = f"its parts have different shapes{_unlike(field, value)}; make them alike first" if ragged else said
        raise invalid(field, f"cannot be made an array: {why}") from error
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise invalid(field, "has masked values, which stand for no number; fill them first: .filled(0)")
    return np.asarray(array)


def _plain(field: str, value: Any) -> Any:
    """`value` without what numpy refuses or misreads: gradients and devices of tensors, palettes of pictures.

    InvalidArgument, about `field`, if it is a picture whose pixels may mean several things.
    """
    if isinstance(value, list | tuple):
        parts = [_plain(field, part) for part in value]
        if are_pictures(value) and len({part.ndim for part in parts}) > 1:  # a grey one has its three channels alike
            parts = [part if part.ndim == 3 else np.repeat(part[..., np.newaxis], 3, axis=2) for part in parts]
        return parts
    if _is_picture(value):
        return _pixels(field, value)
    if _arguments.is_tensor(value):
        return value.numpy(force=True)  # torch's own word for "whatever it takes"
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value, device="cpu")
    return value


def _unlike(field: str, value: Any) -> str:
    """The first two shapes that differ among the parts of a list, as far as these are arrays."""
    try:
        shapes = [list(np.shape(_plain(field, part))) for part in value]
    except (TypeError, ValueError):
        return ""
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    return "" if other is None else f", {shapes[0]} and {other}"


def are_pictures(value: object) -> bool:
    """Whether it is a picture of Pillow, or a list of such."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_picture, value))
    return _is_picture(value)


def is_array(value: object) -> bool:
    """Whether it says itself that it is an array, of whatever library."""
    return any(hasattr(value, name) for name in ("__array__", "__array_interface__", "__dlpack__"))


def _is_picture(value: Any) -> bool:
    """Whether it is one of Pillow, which whoever made it has imported; others need not wait for that."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(value, pillow.Image)


def _pixels(field: str, picture: Any) -> NDArray[np.uint8]:
    from ancestral_client import pictures

    try:
        return pictures.pixels(picture)
    except pictures.UnclearPicture as error:
        raise invalid(field, f"is a picture that {error}") from None


def image_array(field: str, images: ArrayLike, scale: float | None = None) -> NDArray[np.uint8]:
    """`images` as an array; InvalidArgument, about `field`, unless they are 8-bit and at least one.

    With a `scale` they may be any real numbers, which times that are the levels 0 to 255; fractions are rounded.
    """
    array = array_of(field, images)
    if scale is not None:
        array = _levels(field, array, _kind(images, array), scale)
    if array.size == 0:
        raise invalid(field, f"has shape {list(array.shape)}: no image in it")
    if array.dtype != np.uint8:
        hint = ""
        if isinstance(images, str | bytes | os.PathLike):
            hint = "; open the file first, with PIL.Image.open or numpy.load"
        elif array.dtype.kind in "fb":
            hint = "; scale to 0..255 and round first, or say what to multiply them by: scale=255 for images in [0,1]"
        elif array.dtype.kind in "iu":
            hint = "; scale=1 takes whole numbers of 0 to 255"
        raise invalid(field, f"must be uint8 with values 0 to 255, not {_kind(images, array)}{hint}")
    return array


def _levels(field: str, array: NDArray[Any], kind: str, scale: float) -> NDArray[np.uint8]:
    """Numbers times `scale`, rounded: levels of 0 to 255, or an InvalidArgument about `field`."""
    factor = _arguments.scale_of(scale)
    if array.dtype.kind not in "fiub":
        raise invalid(field, f"must be numbers, not {kind}")
    if array.size == 0:
        raise invalid(field, f"has shape {list(array.shape)}: no image in it")
    lost = array.size - np.count_nonzero(np.isfinite(array))
    if lost:
        of_all = f"NaN or infinity {lost} times among {array.size} numbers"
        raise invalid(field, f"has {of_all}; put levels in their place first: numpy.nan_to_num")
    scaled = array * np.float64(factor)
    low, high = float(scaled.min()), float(scaled.max())
    # Rounding errors of floats in [0,1] are no wrong values.
    if not (low > -0.5 and high < 255.5):
        fitting = "1 takes these" if low >= 0 and high <= 255 * factor else "255 is for [0,1]"
        raise invalid(
            field, f"times scale={factor:g} is from {low:g} to {high:g}; levels are 0 to 255: scale={fitting}"
        )
    if high <= 1 and not (scaled == np.rint(scaled)).all():
        raise invalid(field, f"times scale={factor:g} is at most {high:g} of 255, all black; scale=255 is for [0,1]")
    return np.rint(scaled).astype(np.uint8)


def _kind(value: object, array: NDArray[Any]) -> str:
    """What an array holds; of what is no array at all, what that is."""
    return type(value).__name__ if array.dtype == object and array.ndim == 0 else str(array.dtype)


def most_in_message(array: NDArray[np.generic], limit: int) -> int:
    """How many of an array's images a message of `limit` bytes holds; one at least, so that somebody says no."""
    return max(1, (limit - _ENVELOPE_BYTES) * len(array) // array.nbytes)


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
    array = array_of(field, mask)
    if array.dtype != np.bool_:
        found = _kind(mask, array)
        raise invalid(field, f"must be bool, True for the pixels to keep, not {found}; compare first: mask > 127")
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


def picture_batch(array: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
    """As `image_batch`, of the pixels of pictures, whose channels become the model's: grey as three alike, colours as
    their brightness, which a warning says.
    """
    batch = image_batch(array, shape)
    if batch is None and shape[2] == 3 and array.shape[-2:] == shape[:2]:
        return image_batch(np.repeat(array[..., np.newaxis], 3, axis=-1), shape)
    if batch is None and array.ndim > 2 and array.shape[-3:] == (*shape[:2], 3) and shape[2] == 1:
        from ancestral_client import pictures

        many = array.reshape(-1, *array.shape[-3:])
        if any(map(pictures.in_colour, many)):
            warnings.warn("a picture in colour is read as grey", stacklevel=2)
        return np.stack([pictures.with_channels(picture, 1) for picture in many])[..., np.newaxis]
    return batch


def mask_batch(array: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_] | None:
    """`array` as [N,H,W,C], or None if it does not fit the model's `shape` (H, W, C).

    Takes what `image_batch` takes, and whatever C is a mask without channels: it then holds for all of them.
    """
    batch = image_batch(array, shape)
    if batch is None:
        plain = image_batch(array, (*shape[:2], 1))
        batch = None if plain is None else np.broadcast_to(plain, (len(plain), *shape))
    return batch


def images_of_any_size(array: NDArray[_Scalar], channels: int) -> NDArray[_Scalar] | None:
    """`array` as [N,H',W',C] of whatever H' and W', or None if it does not have so many channels.

    Takes [N,H',W',C], one image [H',W',C], and with C = 1 also [N,H',W'] and [H',W'], but no [.,.,3], which is rather
    one image in colour than many that are 3 pixels wide.
    """
    if array.ndim in (3, 4) and array.shape[-1] == channels:
        return array if array.ndim == 4 else array[np.newaxis]
    if channels == 1 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] not in (3, 4))):
        return (array if array.ndim == 3 else array[np.newaxis])[..., np.newaxis]
    return None


def wrong_shape(field: str, array: NDArray[np.generic], shape: tuple[int, int, int], model: str) -> InvalidArgument:
    """The error for images that `image_batch` cannot fit, or a mask that `mask_batch` cannot."""
    hint = ""
    if array.dtype != np.bool_ and images_of_any_size(array, shape[2]) is not None:
        hint = "; ancestral_client.pictures.resized brings an image to another size"
    return invalid(field, misfit(array, shape, model) + hint)


def misfit(array: NDArray[np.generic], shape: tuple[int, int, int], model: str) -> str:
    """What is wrong with the shape of images, or of a mask, for a model of `shape` (H, W, C)."""
    height, width, channels = shape
    accepted = [f"[N,{height},{width},{channels}]", f"[{height},{width},{channels}]"]
    if channels == 1 or array.dtype == np.bool_:
        accepted += [f"[N,{height},{width}]", f"[{height},{width}]"]
    hint = ""
    # Three axes with one channel are rather [N,H,W].
    if array.ndim in ((4,) if channels == 1 else (3, 4)) and array.shape[-3] == channels != array.shape[-1]:
        hint = "; its channels stand first (CHW): move them last with numpy.moveaxis(images, -3, -1)"
    return f"has shape {list(array.shape)}; {model} takes {', '.join(accepted)}{hint}"


def latent_batch(latents: ArrayLike) -> NDArray[np.float32]:
    """`latents` as [N,Z] float32; takes [N,Z] and one latent [Z] of any real dtype."""
    array = array_of("latents", latents)
    if array.dtype.kind not in "fiu":
        raise invalid("latents", f"must be numbers, not {_kind(latents, array)}")
    if array.ndim not in (1, 2) or array.size == 0:
        raise invalid("latents", f"has shape {list(array.shape)}; must be [N,Z] or [Z]")
    with np.errstate(over="ignore"):  # told below
        batch = np.atleast_2d(array).astype("<f4")
    if not np.isfinite(batch).all():
        raise invalid("latents", "has a value that is not finite, or not in the range of float32")
    return batch


def labels_of(labels: ArrayLike | None) -> list[int] | None:
    """Classes for the wire: takes [N], or one number for all images, of any whole dtype."""
    if labels is None:
        return None
    array = array_of("labels", labels)
    if array.dtype.kind not in "iu":
        hint = "; round them if they are classes: .astype(int)" if array.dtype.kind in "fb" else ""
        raise invalid("labels", f"must be whole numbers, not {_kind(labels, array)}{hint}")
    if array.ndim > 1 or array.size == 0:
        raise invalid("labels", f"has shape {list(array.shape)}; must be one number or [N]")
    return [_arguments.label_of("labels", label) for label in np.atleast_1d(array).tolist()]
