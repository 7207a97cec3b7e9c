"""The checks that need no server, and the axes that callers may leave out. Pure: no channel, no state.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import math
import numbers
import operator
import os
import sys
import warnings
from typing import Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ancestral.text import one_line
from ancestral.v1 import priority_pb2
from ancestral_client import _address
from ancestral_client.errors import STREAMS, FieldViolation, InvalidArgument, MessageTooLarge, invalid

_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
# A deadline 293 years from now overflows gRPC's clock, and becomes one that has passed.
_FOR_EVER_SECONDS = 1e9
# The most letters of a wrong value in a message.
_TOLD = 60
# What a request needs beside its array.
_ENVELOPE_BYTES = 1024

Compression = Literal["none", "deflate", "gzip"]
Priority = Literal["interactive", "batch"]
_PRIORITIES: dict[Priority, priority_pb2.Priority.ValueType] = {
    "interactive": priority_pb2.PRIORITY_INTERACTIVE,
    "batch": priority_pb2.PRIORITY_BATCH,
}

# What Python makes numbers of, with a part of it lost: a unit, or what is imaginary.
_NO_NUMBERS = (str, bytes, bytearray, np.datetime64, np.timedelta64, np.complexfloating)

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
    if _is_tensor(value):
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


def _is_tensor(value: Any) -> bool:
    """Whether it is one of torch, which need not be installed."""
    return hasattr(value, "detach") and hasattr(value, "numpy")


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


def scale_of(scale: object, field: str = "scale") -> float:
    """What makes levels of 0 to 255 of numbers."""
    factor = _real(field, scale, "above 0: what makes levels of 0 to 255 of the images")
    if not 0 < factor < math.inf:
        raise invalid(field, f"is {_told(scale)}; must be above 0: 255 for images in [0,1]")
    return factor


def _levels(field: str, array: NDArray[Any], kind: str, scale: float) -> NDArray[np.uint8]:
    """Numbers times `scale`, rounded: levels of 0 to 255, or an InvalidArgument about `field`."""
    factor = scale_of(scale)
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
    return [label_of("labels", label) for label in np.atleast_1d(array).tolist()]


def label_of(field: str, label: object) -> int:
    """A class for the wire; only the server knows how many the model has."""
    return _whole(field, label, 0, _MAX_INT32, "0 to the model's label_count - 1")


def count_of(field: str, n: object) -> int:
    """A number of images or draws for the wire; only the server knows how many it allows."""
    return _whole(field, n, 1, _MAX_INT32, "at least 1")


def first_index_of(first_index: object) -> int:
    """An index in a seed's sequence for the wire."""
    return _whole("first_index", first_index, 0, _MAX_INT64, "0 to 2^63 - 1")


def version_of(version: object) -> int:
    """A version for the wire."""
    return _whole("version", version, 0, _MAX_INT64, "at least 1, or 0 for the highest that is served")


def seed_of(name: str, seed: object) -> int:
    """A seed for the wire; `name` is its field."""
    return _whole(name, seed, 0, _MAX_INT64, "0 to 2^63 - 1")


def steps_of(steps: object, most: int = 10_000) -> int:
    """How many points a way through the latents has; a server decodes 10,000 at once unless told otherwise."""
    return _whole("steps", steps, 1, most, f"1 to {most}")


def dimension_of(field: str, dimension: object, size: int) -> int:
    """A latent dimension of so many."""
    return _whole(field, dimension, 0, size - 1, f"0 to {size - 1}")


def span_of(span: object) -> float:
    """How far to go in a latent dimension."""
    number = _real("span", span, "above 0")
    if not 0 < number < math.inf:
        raise invalid("span", f"is {_told(span)}; must be above 0, and finite")
    return number


def message_bytes_of(limit: object) -> int:
    """The most bytes of a message, for gRPC."""
    return _whole("max_message_bytes", limit, 1, _MAX_INT32, "1 to 2^31 - 1")


def _whole(field: str, value: object, least: int, most: int, allowed: str) -> int:
    """`value` as an int; InvalidArgument, about `field`, unless it is a whole number in a range called `allowed`.

    A whole number is an int or what stands for one: an integer of numpy, a tensor of one, True, 3.0.
    """
    number = _number(field, value, allowed)
    if isinstance(number, float) and not number.is_integer():  # nor are NaN and infinity
        raise invalid(field, f"is {_told(value)}, no whole number; must be {allowed}")
    if not least <= number <= most:
        raise invalid(field, f"is {_told(value)}; must be {allowed}")
    if isinstance(number, float) and number > _exact(value):
        raise invalid(field, f"is {_told(value)}, a float that may have been rounded; give it as an int")
    return int(number)


def _number(field: str, value: Any, allowed: str) -> int | float:
    """`value` as a number, an int where it is one; InvalidArgument, about `field`, if it is none."""
    if _is_tensor(value):
        value = value.detach()
    if not isinstance(value, _NO_NUMBERS) and getattr(value, "ndim", 0) == 0:
        try:
            return operator.index(value)
        except TypeError:
            pass
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise invalid(field, f"is {_told(value)}, which is no number but a {type(value).__name__}; must be {allowed}")


def _real(field: str, value: object, allowed: str) -> float:
    """`value` as a float; InvalidArgument, about `field`, if it is no number."""
    number = _number(field, value, allowed)
    try:
        return float(number)
    except OverflowError:  # of an int
        return math.inf if number > 0 else -math.inf


def _exact(value: object) -> int:
    """Up to where a float, perhaps one of numpy, holds every whole number."""
    digits = np.finfo(value.dtype).nmant + 1 if isinstance(value, np.floating | np.ndarray) else 53
    return int(2 ** min(digits, 53))


def _told(value: object) -> str:
    """A wrong value for a message: in one line, and not all of it if it is long."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"{'-' if value < 0 else ''}2^{value.bit_length() - 1} or more"
    return one_line(str(value) if isinstance(value, numbers.Number) else repr(value), _TOLD)


def priority_of(priority: Priority) -> priority_pb2.Priority.ValueType:
    """A priority for the wire."""
    if not isinstance(priority, str) or priority not in _PRIORITIES:
        raise invalid("priority", f"is {_told(priority)}; must be one of {', '.join(map(repr, _PRIORITIES))}")
    return _PRIORITIES[priority]


def compression_of(compression: Compression) -> Compression:
    """How requests are compressed."""
    allowed = get_args(Compression)
    if not isinstance(compression, str) or compression not in allowed:
        raise invalid("compression", f"is {_told(compression)}; must be one of {', '.join(map(repr, allowed))}")
    return compression


def proxy_of(proxy: object) -> str | None:
    """The URL of a proxy; "" for none, None for what the environment says."""
    if proxy is None or proxy == "":
        return None if proxy is None else ""
    try:
        if not isinstance(proxy, str):
            raise TypeError(proxy)
        url = proxy if "://" in proxy else f"http://{proxy}"
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path not in ("", "/"):
            raise ValueError(proxy)
    except (TypeError, ValueError):
        # Not all of it: a password may stand in it.
        raise invalid("proxy", 'must be HOST:PORT or http://[USER:PASSWORD@]HOST:PORT, or "" for none') from None
    return url


def name_of(field: str, name: object) -> str:
    """The name of a model for the wire; only the server knows which there are."""
    if not isinstance(name, str):
        raise invalid(field, f"is {_told(name)}; must be the name of a model, a str")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise invalid(field, f"is {_told(name)}, which is no text in UTF-8") from None
    return name


def flag_of(field: str, flag: object) -> bool:
    """Yes or no for the wire."""
    if not isinstance(flag, bool | np.bool_) and not (isinstance(flag, int) and flag in (0, 1)):
        raise invalid(field, f"is {_told(flag)}; must be True or False")
    return bool(flag)


def transport_of(transport: object) -> None:
    """What makes a transport, if anything does."""
    if transport is not None and not callable(transport):
        raise invalid(
            "transport", f"is {_told(transport)}; must be what makes one, as those of ancestral_client.testing"
        )


def progress_of(progress: object) -> None:
    """Whether somebody is told how far a call is: yes, no, or a function."""
    if not callable(progress):
        flag_of("progress", progress)


def temperature_of(temperature: object) -> float:
    """A temperature for the wire; only the server knows the highest that it allows."""
    allowed = "at least 0, up to the model's max_temperature"
    number = _real("temperature", temperature, allowed)
    if not 0 <= number < math.inf:
        raise invalid("temperature", f"is {_told(temperature)}; must be {allowed}")
    return number


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


def retry_seconds_of(seconds: object) -> float:
    """For how long failures are tried again."""
    allowed = "at least 0 seconds (0: no call is tried again)"
    number = _real("retry_seconds", seconds, allowed)
    if not number >= 0:
        raise invalid("retry_seconds", f"is {_told(seconds)}; must be {allowed}")
    return number


def hedge_seconds_of(seconds: object) -> float | None:
    """After how long a call is asked for once more."""
    if seconds is None:
        return None
    allowed = "above 0 seconds (None: no call is asked for twice)"
    number = _real("hedge_seconds", seconds, allowed)
    if not 0 < number < math.inf:
        raise invalid("hedge_seconds", f"is {_told(seconds)}; must be {allowed}")
    return number


def timeout_of(timeout: object) -> float | None:
    """Seconds for gRPC, whose None means for ever."""
    allowed = "above 0 seconds (math.inf: no limit)"
    number = _real("timeout", timeout, allowed)
    if not number > 0:
        raise invalid("timeout", f"is {_told(timeout)}; must be {allowed}")
    return None if number >= _FOR_EVER_SECONDS else number
