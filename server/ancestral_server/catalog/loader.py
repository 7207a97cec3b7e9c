"""From a folder to a version that can serve: read, verified against its recorded answers, warm."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import folder
from ancestral_server.catalog.version import ModelVersion, State
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import (
    EndpointSettings,
    OneShotEndpoint,
    RasterEndpoint,
    one_shot_endpoint,
    raster_endpoint,
)
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning
from ancestral_server.engine.pool import INTERACTIVE_NICENESS, WorkerPool, lower_thread_priority
from ancestral_server.errors import BundleError, OutOfMemory
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.bundle import Bundle, read_bundle, read_manifest
from ancestral_server.runtime.golden import replay
from ancestral_server.runtime.program import OneShotProgram, Program, RasterProgram
from ancestral_server.runtime.session import Runtime, Session
from ancestral_server.settings import Settings

log = structlog.get_logger()


class Loader:
    """Loads versions one at a time, on whatever thread calls it."""

    def __init__(self, settings: Settings, runtime: Runtime, metrics: Metrics, arrivals: Arrivals) -> None:
        self._settings = settings
        self._runtime = runtime
        self._metrics = metrics
        waiting = AdaptiveTuning(longest=settings.batch_wait_ms / 1000)
        self._endpoints = EndpointSettings(
            limits=Limits(settings.max_queued_images, settings.max_queued_calls, settings.max_queue_ms / 1000),
            max_batch=settings.max_batch,
            slots=settings.slots,
            policy=lambda: Adaptive(arrivals.coming, waiting),
            pool=WorkerPool(settings.threads),
            fixed=runtime.device != "cpu",
        )

    def load(self, name: str, version: int) -> ModelVersion:
        """The version, serving, its lanes started; or not serving and why, whatever is wrong with it."""
        # The threads that onnxruntime makes for its runs inherit it.
        lower_thread_priority(INTERACTIVE_NICENESS)
        path = self._settings.models / name / str(version)
        # First: what changes from here on will be seen as a change.
        model = ModelVersion(name, version, stamp=folder.stamp(path))
        began = time.monotonic()
        try:
            self._open(model, path)
        except BundleError as error:
            self._refuse(model, error.file, str(error))
            return model
        except Exception as error:  # onnxruntime and hostile files may raise anything, and the others must not suffer
            log.exception("load failed", model=name, version=version)
            self._refuse(model, "", f"loading failed: {type(error).__name__}: {error}")
            return model
        for role, endpoint in model.endpoints.items():
            self._metrics.show(name, version, role, endpoint.stats.metrics)
            endpoint.start()
        model.state = State.SERVING
        self._metrics.loaded(name, ok=True)
        log.info(
            "model serves",
            model=name,
            version=version,
            roles=sorted(model.endpoints),
            device=model.device,
            seconds=round(time.monotonic() - began, 3),
        )
        return model

    def _refuse(self, model: ModelVersion, file: str, problem: str) -> None:
        model.state, model.problem, model.problem_file = State.NOT_SERVING, problem, file
        model.close()
        # It is kept, to say why; nobody packs a reply of it.
        model.programs = {}
        self._metrics.loaded(model.name, ok=False)
        log.error("bundle refused", model=model.name, version=model.version, file=file, reason=problem)

    def _open(self, model: ModelVersion, path: Path) -> None:
        # First the manifest alone: what could be read of a bad bundle is still worth showing.
        model.manifest = read_manifest(path)
        bundle = read_bundle(path)
        for role in bundle.manifest.roles:
            if role.program == bundle_pb2.PROGRAM_RASTER:
                # Its workers each compute on their own thread.
                session = self._session(model, bundle, role, on_caller=True)
                model.programs[role.name] = RasterProgram(role, session, bundle.manifest)
            else:
                model.programs[role.name] = self._one_shot(model, bundle, role, on_caller=False)
        replay(bundle, model.programs)
        for name, program in model.programs.items():
            try:
                model.endpoints[name] = self._endpoint(model, bundle, program)
            except OutOfMemory as error:
                raise BundleError(program.role.graph, f"role {name}: {error}") from error
        model.device = self._runtime.device

    def _one_shot(
        self, model: ModelVersion, bundle: Bundle, role: bundle_pb2.Role, *, on_caller: bool
    ) -> OneShotProgram:
        lean = self._one_shot(model, bundle, role.lean, on_caller=on_caller) if role.HasField("lean") else None
        session = self._session(model, bundle, role, on_caller=on_caller)
        return OneShotProgram(role, session, bundle.manifest, lean)

    def _session(self, model: ModelVersion, bundle: Bundle, role: bundle_pb2.Role, *, on_caller: bool) -> Session:
        """A session on the role's graph, which other roles may share."""
        # On a GPU both kinds are the same.
        on_caller = on_caller and self._runtime.device == "cpu"
        key = (role.graph, on_caller)
        if key not in model.sessions:
            model.sessions[key] = self._runtime.open(bundle.graph(role), on_caller=on_caller)
        return model.sessions[key]

    def _endpoint(self, model: ModelVersion, bundle: Bundle, program: Program) -> OneShotEndpoint | RasterEndpoint:
        """The lanes of a role, warm. OutOfMemory if not even one row fits."""
        role = program.role
        name = f"{model.name}:{model.version} {role.name}"
        metrics = self._metrics.lane(model.name, model.version, role.name)
        if isinstance(program, RasterProgram):
            return raster_endpoint(name, program, metrics, self._endpoints)
        assert isinstance(program, OneShotProgram)
        single_thread = partial(self._one_shot, model, bundle, role, on_caller=True)
        return one_shot_endpoint(name, program, single_thread, metrics, self._endpoints)
