"""The parameters of a request: what is no tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ancestral.text import short
from ancestral_server.engine.job import Priority
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc import convert
from inference import open_inference_service_pb2 as oip

KNOWN = ("draws", "label", "priority", "seed", "temperature", "timeout")
# What clients send without being asked, and what a server without sequences and HTTP has no use for.
IGNORED = ("sequence_id", "sequence_start", "sequence_end", "binary_data", "content_type", "headers", "triton_")
# In seconds 285 years: nobody waits longer, and a float holds it exactly.
MAX_TIMEOUT_MICROSECONDS = 2**53

_Values = Mapping[str, oip.InferParameter]


@dataclass(frozen=True, slots=True)
class Parameters:
    seed: int | None = None
    temperature: float | None = None
    label: int | None = None
    draws: int | None = None
    priority: Priority = Priority.INTERACTIVE
    timeout_seconds: float = math.inf


_NONE = Parameters()


def read(values: _Values) -> Parameters:
    """Check every parameter of a request. How many labels and draws there may be depends on the model, and is not
    checked here.
    """
    if not values:
        return _NONE
    for name in values:
        if name not in KNOWN and not name.startswith(IGNORED):
            raise InvalidArgument(f"parameters[{short(name)}]", f"is unknown; there are {', '.join(KNOWN)}")
    seed, temperature = _integer(values, "seed"), _number(values, "temperature")
    priority, timeout = _integer(values, "priority") or 0, _integer(values, "timeout") or 0
    if not 0 <= priority <= 2:
        raise InvalidArgument("parameters[priority]", f"is {priority}, must be 0 or 1 (interactive) or 2 (batch)")
    if not 0 <= timeout <= MAX_TIMEOUT_MICROSECONDS:
        raise InvalidArgument(
            "parameters[timeout]", f"is {timeout} microseconds, must be 0 (none) to {MAX_TIMEOUT_MICROSECONDS}"
        )
    return Parameters(
        seed=None if seed is None else convert.seed("parameters[seed]", seed),
        temperature=None if temperature is None else convert.temperature("parameters[temperature]", temperature),
        label=_integer(values, "label"),
        draws=_integer(values, "draws"),
        priority=Priority.BATCH if priority == 2 else Priority.INTERACTIVE,
        timeout_seconds=timeout / 1e6 if timeout else math.inf,
    )


def refuse_other_ways(field: str, values: _Values) -> None:
    """Of a tensor: refuse what asks for another way to send or answer it."""
    for name in values:
        if name.startswith("shared_memory_") or name == "classification":
            raise InvalidArgument(
                f"{field}.parameters[{short(name)}]", "is not supported: tensors travel whole, in the messages"
            )


def _integer(values: _Values, name: str) -> int | None:
    value = _value(values, name, ("int64_param", "uint64_param"), "an integer (int64_param)")
    return None if value is None else int(value)


def _number(values: _Values, name: str) -> float | None:
    kinds = ("double_param", "int64_param", "uint64_param")
    return _value(values, name, kinds, "a number (double_param or int64_param)")


def _value(values: _Values, name: str, kinds: tuple[str, ...], wanted: str) -> float | None:
    # A map gives, and keeps, an empty value for a key that it has not.
    if name not in values:
        return None
    kind = values[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        shown = "empty" if kind is None else f"{short(repr(getattr(values[name], kind)))} ({kind})"
        raise InvalidArgument(f"parameters[{name}]", f"is {shown}, must be {wanted}")
    number: float = getattr(values[name], kind)
    return number
