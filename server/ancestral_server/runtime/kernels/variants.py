"""Which pieces of a kernel's machine code a device takes, and which of them paints a row of so many samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ancestral.v1 import bundle_pb2


class NoKernel(Exception):
    """The graph serves a role, and this is why its kernel does not.

    expected: it is as it was asked for, or as it is on a machine without GPUs.
    """

    def __init__(self, reason: str, *, expected: bool = False) -> None:
        super().__init__(reason)
        self.expected = expected


@dataclass(frozen=True)
class Device:
    """What matters of a device: its compute capability, its multiprocessors, and the most shared memory of a block."""

    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int


def usable(kernel: bundle_pb2.Kernel, device: Device) -> list[bundle_pb2.KernelVariant]:
    """What a device takes, one of each number of samples, ascending; NoKernel if there is nothing."""
    best: dict[int, bundle_pb2.KernelVariant] = {}
    for variant in kernel.variants:
        rank = _rank(variant, device)
        known = best.get(variant.samples)
        if rank is not None and (known is None or rank > (_rank(known, device) or rank)):
            best[variant.samples] = variant
    if not best:
        major, minor = device.capability
        has = ", ".join(sorted({variant.target for variant in kernel.variants}))
        raise NoKernel(f"it has no code for sm_{major}{minor}, which this GPU is: it has {has}")
    fitting = [best[samples] for samples in sorted(best) if best[samples].shared_bytes <= device.shared_bytes]
    if not fitting:
        least = min(variant.shared_bytes for variant in best.values())
        raise NoKernel(
            f"its blocks need {least:,} bytes of shared memory or more, and have at most {device.shared_bytes:,} here"
        )
    return fitting


def pick(variants: Sequence[bundle_pb2.KernelVariant], samples: int, multiprocessors: int) -> bundle_pb2.KernelVariant:
    """What paints a row of so many samples: the fewest to a block whose blocks still find a multiprocessor each, else
    the most. variants: ascending by samples.
    """
    for variant in variants:
        if -(-samples // variant.samples) <= multiprocessors:
            return variant
    return variants[-1]


def _rank(variant: bundle_pb2.KernelVariant, device: Device) -> tuple[bool, int] | None:
    """How well a variant suits a device: machine code better than PTX, the newer the better; None: not at all."""
    kind, _, digits = variant.target.partition("_")
    target = divmod(int(digits), 10)
    cubin = kind == "sm"
    if target > device.capability or (cubin and target[0] != device.capability[0]):
        return None
    return cubin, int(digits)
