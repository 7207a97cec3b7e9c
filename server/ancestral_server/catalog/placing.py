"""A version on one device: what runs each of its roles there, verified, and its lanes.

A server has a place for each of its devices, and most have one. On several every version is in all places, in the same
form: so a seed gives the same image wherever it is painted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.engine.endpoint import (
    EndpointSettings,
    OneShotEndpoint,
    RasterEndpoint,
    one_shot_endpoint,
    raster_endpoint,
)
from ancestral_server.engine.stats import LaneStats
from ancestral_server.runtime.bundle import Bundle
from ancestral_server.runtime.golden import check_labels
from ancestral_server.runtime.kernels.choice import Kernels
from ancestral_server.runtime.kernels.program import KernelProgram
from ancestral_server.runtime.kernels.variants import NoKernel
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.program import Needs, OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Runtime, Session, Trial
from ancestral_server.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True)
class Form:
    """What runs a raster role: "onnx", its graph, or "kernel", its machine code on a GPU; on which device; and, where
    there is a kernel, why the graph does.
    """

    name: str
    device: str
    reason: str = ""


@dataclass(eq=False)
class Placed:
    """A version on one device: its programs and forms by role, its sessions by graph and by whether they compute on the
    thread that calls them.
    """

    programs: dict[str, Program] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    sessions: dict[tuple[str, bool], Session] = field(default_factory=dict)

    def close(self) -> None:
        """Give everything back, once a run that goes on has ended."""
        for program in self.programs.values():
            program.close()
        for session in self.sessions.values():
            session.close()
        self.programs, self.sessions = {}, {}


class Place:
    """A device, and how versions come onto it.

    needs: of a one-shot role, by name. one_of_several: its lanes tell the device in their names.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        endpoints: EndpointSettings,
        needs: Callable[[str], Needs],
        *,
        one_of_several: bool,
    ) -> None:
        self.runtime = runtime
        self._one_of_several = one_of_several
        self._slots = settings.slots
        self._endpoints = endpoints
        self._needs = needs
        self._kernels = Kernels(
            settings.kernels,
            runtime.gpu,
            library=runtime.library,
            lost=runtime.lose,
            row_seconds=settings.load_seconds,
        )

    def kernel(self, placed: Placed, bundle: Bundle, role: bundle_pb2.Role, trial: Trial) -> None:
        """Have a raster role run by its kernel; NoKernel if that may not serve here."""
        golden = bundle.contents[bundle.manifest.golden.path]
        program = placed.programs[role.name] = self._kernels.program(
            role, bundle.manifest, bundle.contents, golden, slots=self._slots, end=trial.end
        )
        placed.forms[role.name] = Form(program.form, f"cuda:{self.runtime.gpu}")
        trial.steps += 1

    def graph(self, placed: Placed, bundle: Bundle, role: bundle_pb2.Role, trial: Trial, reason: str) -> None:
        """Have a role run by its graph. reason: why its kernel does not, if it has one."""
        if role.program == bundle_pb2.PROGRAM_RASTER:
            # Its workers each compute on their own thread.
            session = self._session(placed, bundle, role, trial, on_caller=True)
            placed.programs[role.name] = OnnxRasterProgram(role, session, bundle.manifest)
            placed.forms[role.name] = Form(OnnxRasterProgram.form, self.runtime.device, reason)
        else:
            placed.programs[role.name] = self._one_shot(placed, bundle, role, trial, on_caller=False)

    def raster_endpoint(self, placed: Placed, role: str, name: str, stats: LaneStats) -> RasterEndpoint:
        """The lane of a raster role here, called `name`, warm. OutOfMemory if not even one sample fits."""
        program = placed.programs[role]
        assert isinstance(program, RasterProgram), "it was made for a raster role"
        if not isinstance(program, KernelProgram):
            check_labels(program)
        return raster_endpoint(self._named(name), program, stats.metrics, self._endpoints, stats)

    def one_shot_endpoint(
        self, placed: Placed, bundle: Bundle, role: str, trial: Trial, name: str, stats: LaneStats
    ) -> OneShotEndpoint:
        """The lanes of a one-shot role here, called `name`, warm. OutOfMemory if not even one row fits."""
        program = placed.programs[role]
        assert isinstance(program, OneShotProgram), "it was made for a one-shot role"
        check_labels(program)
        single_thread = partial(self._one_shot, placed, bundle, program.role, trial, on_caller=True)
        return one_shot_endpoint(self._named(name), program, single_thread, stats.metrics, self._endpoints, stats)

    def _named(self, lane: str) -> str:
        return f"{lane} on {self.runtime.device}" if self._one_of_several else lane

    def _one_shot(
        self, placed: Placed, bundle: Bundle, role: bundle_pb2.Role, trial: Trial, *, on_caller: bool
    ) -> OneShotProgram:
        session = self._session(placed, bundle, role, trial, on_caller=on_caller)
        return OneShotProgram(role, session, bundle.manifest, self._needs(role.name))

    def _session(
        self, placed: Placed, bundle: Bundle, role: bundle_pb2.Role, trial: Trial, *, on_caller: bool
    ) -> Session:
        """A session on the role's graph, which other roles may share."""
        # On a GPU both kinds are the same.
        on_caller = on_caller and self.runtime.device == "cpu"
        key = (role.graph, on_caller)
        if key not in placed.sessions:
            placed.sessions[key] = self.runtime.open(bundle.graph(role), on_caller=on_caller, trial=trial)
        return placed.sessions[key]


def place(places: Sequence[Place], placed: Sequence[Placed], bundle: Bundle, trial: Trial) -> None:
    """Make the programs of a version in each place, in one form everywhere."""
    several = list(zip(places, placed, strict=True))
    for role in bundle.manifest.roles:
        reason = ""
        if role.HasField("kernel") and role.program == bundle_pb2.PROGRAM_RASTER:
            reason = _place_kernels(several, bundle, role, trial)
        for where, there in several:
            if role.name not in there.programs:
                where.graph(there, bundle, role, trial, reason)


def _place_kernels(several: Sequence[tuple[Place, Placed]], bundle: Bundle, role: bundle_pb2.Role, trial: Trial) -> str:
    """Make the programs of a role's kernel in each place, or in none; why in none, if so."""
    name, manifest = role.name, bundle.manifest
    for where, there in several:
        try:
            where.kernel(there, bundle, role, trial)
        except NoKernel as error:
            reason = str(error) if len(several) == 1 else f"cuda:{where.runtime.gpu}: {error}"
            tell = log.info if error.expected else log.warning
            tell("the graph serves, not the kernel", model=manifest.name, role=name, reason=reason)
            for _, other in several:
                if name in other.programs:
                    other.programs.pop(name).close()
            return reason
    return ""
