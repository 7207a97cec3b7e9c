"""The checks of plain arguments that need no server: numbers, names, flags, addresses, as the wire or gRPC takes them.

Each raises InvalidArgument that names the field, the value and what is allowed. Pure: no channel, no state.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import numpy as np

from ancestral.text import one_line
from ancestral.v1 import priority_pb2
from ancestral_client import _address
from ancestral_client.errors import invalid

_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
# A deadline 293 years from now overflows gRPC's clock, and becomes one that has passed.
_FOR_EVER_SECONDS = 1e9
# The most letters of a wrong value in a message.
_TOLD = 60

Compression = Literal["none", "deflate", "gzip"]
Priority = Literal["interactive", "batch"]
_PRIORITIES: dict[Priority, priority_pb2.Priority.ValueType] = {
    "interactive": priority_pb2.PRIORITY_INTERACTIVE,
    "batch": priority_pb2.PRIORITY_BATCH,
}

# What Python makes numbers of, with a part of it lost: a unit, or what is imaginary.
_NO_NUMBERS = (str, bytes, bytearray, np.datetime64, np.timedelta64, np.complexfloating)


def is_tensor(value: Any) -> bool:
    """Whether it is one of torch, which need not be installed."""
    return hasattr(value, "detach") and hasattr(value, "numpy")


def scale_of(scale: object, field: str = "scale") -> float:
    """What makes levels of 0 to 255 of numbers."""
    factor = _real(field, scale, "above 0: what makes levels of 0 to 255 of the images")
    if not 0 < factor < math.inf:
        raise invalid(field, f"is {_told(scale)}; must be above 0: 255 for images in [0,1]")
    return factor


def label_of(field: str, label: object) -> int:
    """A class for the wire; only the server knows how many the model has."""
    return _whole(field, label, 0, _MAX_INT32, "0 to the model's label_count - 1")


def count_of(field: str, n: object) -> int:
    """A number of images or draws for the wire; only the server knows how many it allows."""
    return _whole(field, n, 1, _MAX_INT32, "at least 1, and fit into 32 bits")


def first_index_of(first_index: object) -> int:
    """An index in a seed's sequence for the wire."""
    return _whole("first_index", first_index, 0, _MAX_INT64, "0 to 2^63 - 1")


def version_of(version: object) -> int:
    """A version for the wire."""
    allowed = "at least 1, or 0 for the highest that is served, and fit into 64 bits"
    return _whole("version", version, 0, _MAX_INT64, allowed)


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
    if is_tensor(value):
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
