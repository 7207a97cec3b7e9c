"""Which raster roles are run by their kernel: what may serve is proven, or the graph serves and it is said why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

from ancestral.v1 import bundle_pb2
from ancestral_server.errors import DeviceLost
from ancestral_server.runtime.kernels import proof
from ancestral_server.runtime.kernels.driver import LIBRARY, Driver, NoDevice
from ancestral_server.runtime.kernels.program import CONVENTION, KernelProgram
from ancestral_server.runtime.kernels.variants import Device, NoKernel, usable
from ancestral_server.runtime.watchdog import Watchdog

# Of the time that a load has left, what its proof may take: the graph must still be loaded and verified after one that
# never ends. And seconds at the most, of which a driver that compiles PTX for each variant needs some ten.
PROOF_SHARE, LONGEST_PROOF_SECONDS = 0.5, 120.0

Files = Mapping[str, bytes]


class Kernels:
    """Makes programs of kernels, on one device.

    index: of the device; None where none may be used, for the reason `without`. lost: see `KernelProgram`.
    """

    def __init__(
        self,
        kernels: Literal["auto", "off"] = "auto",
        index: int | None = 0,
        *,
        library: str = LIBRARY,
        without: str = "--device cpu",
        lost: Callable[[DeviceLost], None] = lambda error: None,
        row_seconds: float = float("inf"),
    ) -> None:
        self._without = "--kernels off" if kernels == "off" else without if index is None else ""
        self._index = index or 0
        self._library = library
        self._lost = lost
        self._row_seconds = row_seconds
        self._watchdog = Watchdog()
        self._driver: Driver | None = None

    def program(
        self,
        role: bundle_pb2.Role,
        manifest: bundle_pb2.Bundle,
        files: Files,
        golden: bytes,
        *,
        slots: int,
        end: float,
    ) -> KernelProgram:
        """The program of a role's kernel, proven, with memory for so many slots; NoKernel if the graph has to serve.

        golden: the recorded answers, an .npz. end: of the load, time.monotonic() seconds.
        """
        if self._without:
            raise NoKernel(self._without, expected=True)
        kernel = role.kernel
        if kernel.convention != CONVENTION:
            raise NoKernel(f"its convention is {kernel.convention}, and {CONVENTION} is known here: update Ancestral")
        driver = self._opened()
        variants = usable(kernel, Device(driver.capability, driver.multiprocessors, driver.shared_bytes))
        ours = {kernel.weights, *(variant.code for variant in variants)}
        files = {path: content for path, content in files.items() if path in ours}
        seconds = min(LONGEST_PROOF_SECONDS, PROOF_SHARE * (end - time.monotonic()))
        question = proof.Question(role.name, manifest.SerializeToString(), files, golden, self._index, self._library)
        proof.ask(question, max(0.0, seconds))
        return KernelProgram(
            role,
            manifest,
            driver,
            variants,
            files,
            slots,
            lost=self._lost,
            watchdog=self._watchdog,
            row_seconds=self._row_seconds,
        )

    def _opened(self) -> Driver:
        """The device; what was missing the last time may be there now."""
        if self._driver is None:
            try:
                self._driver = Driver(self._index, self._library)
            except NoDevice as error:
                raise NoKernel(f"there is no usable GPU: {error}", expected=True) from error
        return self._driver
