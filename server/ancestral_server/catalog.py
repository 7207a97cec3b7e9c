"""Which models there are: reads, verifies and warms every bundle, and finds the lane for a model, version and role."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.batch_loop import BatchLoop
from ancestral_server.engine.raster_loop import RasterLoop
from ancestral_server.errors import BundleError, NotFound, OutOfMemory, RoleMissing, StartupError, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.bundle import read_bundle, read_manifest
from ancestral_server.runtime.golden import replay
from ancestral_server.runtime.program import OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Runtime, Session
from ancestral_server.settings import Settings

log = structlog.get_logger()


@dataclass
class ModelVersion:
    """One version of one model: its lanes by role, or the reason why it does not serve."""

    name: str
    version: int
    device: str = ""
    manifest: bundle_pb2.Bundle | None = None
    programs: dict[str, Program] = field(default_factory=dict)
    lanes: dict[str, BatchLoop | RasterLoop] = field(default_factory=dict)
    problem: str = ""

    @property
    def serving(self) -> bool:
        return not self.problem

    def lane(self, role: str) -> BatchLoop | RasterLoop:
        """RoleMissing if the model cannot do that, with what it can do."""
        if role not in self.lanes:
            raise RoleMissing(
                self.name,
                f"model {self.name} (version {self.version}) has no role {role!r}; "
                f"it has {', '.join(sorted(self.lanes))}",
            )
        return self.lanes[role]


class Catalog:
    """All versions of all models in a folder, loaded once at start."""

    def __init__(self, settings: Settings, runtime: Runtime, metrics: Metrics, arrivals: Arrivals) -> None:
        self._settings = settings
        self._runtime = runtime
        self._metrics = metrics
        self._arrivals = arrivals
        self._models: dict[str, dict[int, ModelVersion]] = {}

    def load(self) -> None:
        """Load every bundle. A bad one is logged and kept as not serving; the others serve."""
        root = self._settings.models
        if not root.is_dir():
            raise StartupError(
                f"--models {root}: no such folder; `ancestral-exporter train RECIPE --models {root}` makes one"
            )
        for folder in sorted(root.glob("[!.]*/*")):
            if folder.is_dir() and folder.name.isdecimal() and str(int(folder.name)) == folder.name:
                self._add(self._load(folder))
        if not self._models:
            log.warning("no models", folder=str(root), hint=f"ancestral-exporter train digits-vae --models {root}")

    def close(self) -> None:
        for model in self:
            for lane in model.lanes.values():
                lane.close()

    def __iter__(self) -> Iterator[ModelVersion]:
        """By name, then by version."""
        for name in sorted(self._models):
            for version in sorted(self._models[name]):
                yield self._models[name][version]

    def find(self, name: str, version: int) -> ModelVersion:
        """The version that answers, 0 meaning the highest that serves. NotFound or Unavailable otherwise."""
        model = self.describe(name, version)
        if not model.serving:
            raise Unavailable(
                f"{name}:{model.version}", f"model {name} version {model.version} does not serve: {model.problem}"
            )
        return model

    def describe(self, name: str, version: int) -> ModelVersion:
        """Like `find`, but also those that do not serve: the highest that serves, else the highest."""
        versions = self._models.get(name)
        if versions is None:
            there_are = ", ".join(sorted(self._models)) or "none"
            raise NotFound(name, f"no model {name!r}; there are: {there_are}")
        if version:
            if version not in versions:
                raise NotFound(
                    f"{name}:{version}",
                    f"model {name} has no version {version}; it has {', '.join(map(str, sorted(versions)))}",
                )
            return versions[version]
        return max(versions.values(), key=lambda model: (model.serving, model.version))

    def _add(self, model: ModelVersion) -> None:
        self._models.setdefault(model.name, {})[model.version] = model
        self._metrics.model(model.name, model.version, serving=model.serving)

    def _load(self, folder: Path) -> ModelVersion:
        model = ModelVersion(folder.parent.name, int(folder.name))
        began = time.monotonic()
        try:
            self._open(model, folder)
        except BundleError as error:
            model.problem = str(error)
            model.lanes, model.programs = {}, {}
            log.error("bundle refused", model=model.name, version=model.version, file=error.file, reason=str(error))
            return model
        for lane in model.lanes.values():
            lane.start()
        log.info(
            "model serves",
            model=model.name,
            version=model.version,
            roles=sorted(model.lanes),
            device=model.device,
            seconds=round(time.monotonic() - began, 3),
        )
        return model

    def _open(self, model: ModelVersion, folder: Path) -> None:
        # First the manifest alone: what could be read of a bad bundle is still worth showing.
        model.manifest = read_manifest(folder)
        bundle = read_bundle(folder)
        sessions: dict[tuple[str, bool], Session] = {}
        for role in bundle.manifest.roles:
            raster = role.program == bundle_pb2.PROGRAM_RASTER
            # Roles may share a graph. A raster lane's workers each compute on their own thread.
            key = (role.graph, raster)
            if key not in sessions:
                sessions[key] = self._runtime.open(bundle.graph(role), on_caller=raster)
            kind = RasterProgram if raster else OneShotProgram
            model.programs[role.name] = kind(role, sessions[key], bundle.manifest)
        replay(bundle, model.programs)
        for name, program in model.programs.items():
            model.lanes[name] = self._lane(model, name, program)
            try:
                model.lanes[name].warm_up()
            except OutOfMemory as error:
                raise BundleError(program.role.graph, f"role {name}: {error}") from error
        model.device = self._runtime.device

    def _lane(self, model: ModelVersion, role: str, program: Program) -> BatchLoop | RasterLoop:
        settings = self._settings
        name = f"{model.name}:{model.version} {role}"
        metrics = self._metrics.lane(model.name, model.version, role)
        limits = Limits(settings.max_queued_images, settings.max_queued_calls, settings.max_queue_ms / 1000)
        if isinstance(program, RasterProgram):
            on_cpu = self._runtime.device == "cpu"
            return RasterLoop(
                name,
                program,
                metrics,
                slots=settings.slots,
                limits=limits,
                workers=settings.threads if on_cpu else 1,
                pad=not on_cpu,
            )
        assert isinstance(program, OneShotProgram)
        return BatchLoop(
            name,
            program,
            metrics,
            max_batch=settings.max_batch,
            limits=limits,
            wait=settings.batch_wait_ms / 1000,
            arrivals=self._arrivals,
        )
