"""From a folder to a version that can serve: read, verified against its recorded answers, warm."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import folder
from ancestral_server.catalog.folder import Key
from ancestral_server.catalog.placing import Place, Placed, place
from ancestral_server.catalog.retry import passing
from ancestral_server.catalog.version import NO_ROLES, ModelVersion, RoleMaker, State
from ancestral_server.engine.admission import Limits
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import EndpointSettings
from ancestral_server.engine.policy import Adaptive, AdaptiveTuning
from ancestral_server.engine.pool import WorkerPool
from ancestral_server.engine.quality import Looks, Quality
from ancestral_server.engine.raster import RasterScheduler
from ancestral_server.engine.several import Device, one_shots, rasters
from ancestral_server.engine.stats import LaneStats
from ancestral_server.errors import BundleError, OutOfMemory, Overdue
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.bundle import Bundle, read_bundle, read_manifest
from ancestral_server.runtime.golden import replay
from ancestral_server.runtime.kernels.program import KernelProgram
from ancestral_server.runtime.program import OneShotProgram, RasterProgram
from ancestral_server.runtime.session import Runtime, Trial
from ancestral_server.settings import Settings

log = structlog.get_logger()


# What onnxruntime is told to end it ends between two operators.
GRACE_SECONDS = 5.0
# Of a manifest that is kept to be shown, and of a reason: clients take messages of 4 MiB.
MOST_SHOWN_BYTES = 512 * 1024
MOST_REASON_CHARACTERS = 2_000


def abridged(manifest: bundle_pb2.Bundle) -> bundle_pb2.Bundle:
    """A manifest of at most so many bytes: the fields that take most are left out."""
    while manifest.ByteSize() > MOST_SHOWN_BYTES:
        without = []
        for field, _ in manifest.ListFields():
            rest: Any = bundle_pb2.Bundle()
            rest.CopyFrom(manifest)
            rest.ClearField(field.name)
            without.append(rest)
        manifest = min(without, key=bundle_pb2.Bundle.ByteSize)
    return manifest


class Load:
    """A load that goes on, and who waits for it."""

    def __init__(self, model: ModelVersion, trial: Trial) -> None:
        self.model = model
        self.trial = trial
        # time.monotonic() seconds.
        self.began = time.monotonic()
        # The model is as it will be.
        self.done = threading.Event()
        self._over = threading.Lock()

    def finish(self) -> bool:
        """Whether it ended before it was given up: the model belongs to whoever asks this first."""
        return self._over.acquire(blocking=False)

    def wait(self, grace: float) -> bool:
        """Wait for the load until so many seconds after its end; False if it is given up."""
        if self.done.wait(self.trial.end + grace - time.monotonic()) or not self.finish():
            # Where it ended just now the rest takes a moment.
            self.done.wait()
            return True
        return False


class Loader:
    """Loads versions, each on a thread of its own, and waits no longer than `--load-seconds` and a little more."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        metrics: Metrics,
        arrivals: Arrivals,
        roles: RoleMaker = NO_ROLES,
        others: Sequence[Runtime] = (),
    ) -> None:
        self._roles = roles
        self._settings = settings
        self._metrics = metrics
        waiting = AdaptiveTuning(longest=settings.batch_wait_ms / 1000)
        runtimes = (runtime, *others)
        endpoints = EndpointSettings(
            limits=Limits(settings.max_queued_images, settings.max_queued_calls, settings.max_queue_ms / 1000),
            max_batch=settings.max_batch,
            slots=settings.slots,
            policy=lambda: Adaptive(arrivals.coming, waiting),
            # A run on a GPU keeps a worker waiting.
            pool=WorkerPool(max(settings.threads, len(runtimes))),
        )
        self._places = [
            Place(
                settings,
                each,
                replace(endpoints, fixed=each.device != "cpu"),
                roles.needs,
                one_of_several=len(runtimes) > 1,
            )
            for each in runtimes
        ]
        # Where there are several.
        self._devices = [Device(metrics.machine.device(each.device)) for each in runtimes] if others else []
        self._looks = Looks()
        self._loads: dict[Key, Load] = {}

    def steps(self, key: Key) -> int:
        """How far a load has come, in steps of unequal length; 0 if it has not begun, or is over."""
        load = self._loads.get(key)
        return 0 if load is None else load.trial.steps

    def load(self, name: str, version: int) -> ModelVersion:
        """The version, serving, its lanes started; or not serving and why, whatever is wrong with it."""
        # First: what changes from here on will be seen as a change.
        stamp = folder.stamp(self._folder(name, version))
        seconds = self._settings.load_seconds
        load = self._loads[name, version] = Load(
            ModelVersion(name, version, stamp=stamp), Trial(time.monotonic() + seconds)
        )
        # A daemon, since an operator that never ends must not keep the process from ending.
        threading.Thread(target=self._load, args=(load,), name=f"load {name}:{version}", daemon=True).start()
        try:
            if load.wait(GRACE_SECONDS):
                return load.model
        finally:
            del self._loads[name, version]
        late = ModelVersion(name, version, stamp=stamp)
        self._refuse(
            late,
            Overdue("one of its operators cannot be ended: it keeps a thread and its memory for as long as it goes on"),
            load.began,
        )
        return late

    def _folder(self, name: str, version: int) -> Path:
        return folder.home(list(self._settings.model_folders.values()), name) / name / str(version)

    def _load(self, load: Load) -> None:
        """Load, on a thread of its own."""
        model = load.model
        failure: Exception | None = None
        try:
            self._open(load)
        except (BundleError, Overdue, OutOfMemory, OSError) as error:
            failure = error
        except Exception as error:  # onnxruntime and hostile files may raise anything, and the others must not suffer
            log.exception("load failed", model=model.name, version=model.version)
            failure = error
        if not load.finish():
            # Nobody waits for it any more.
            model.close()
            log.warning("a load that was given up has ended", model=model.name, version=model.version)
            return
        try:
            if failure is not None:
                self._refuse(model, failure, load.began)
            else:
                self._serve(model, time.monotonic() - load.began)
        finally:
            load.done.set()

    def _serve(self, model: ModelVersion, seconds: float) -> None:
        for session in model.sessions:
            session.loaded()
        for role, endpoint in model.endpoints.items():
            metrics = endpoint.stats.metrics
            self._metrics.lanes.show(model.name, model.version, role, metrics)
            samplers = [lane.scheduler for lane in endpoint.lanes if isinstance(lane.scheduler, RasterScheduler)]
            if samplers:
                metrics.watch_slots(sum(each.capacity for each in samplers), _slots_in_use(samplers))
        self._metrics.models.about(model.name, model.version, _about(model))
        for role, form in model.forms.items():
            self._metrics.lanes.form(model.name, model.version, role, form.name)
        model.state = State.SERVING
        self._metrics.models.loaded(model.name, seconds, ok=True)
        log.info(
            "model serves",
            model=model.name,
            version=model.version,
            roles=sorted(model.endpoints),
            device=model.device,
            seconds=round(seconds, 3),
        )

    def _refuse(self, model: ModelVersion, error: Exception, began: float) -> None:
        if isinstance(error, BundleError):
            model.problem_file, model.problem = error.file, str(error)
        elif isinstance(error, Overdue):
            model.problem = f"not loaded after {self._settings.load_seconds:g} s (--load-seconds): {error}"
        elif isinstance(error, OSError):
            model.problem = f"it cannot be read: {error}"
        elif isinstance(error, OutOfMemory):
            when = "ever: it asks for more at once than this machine or container has" if error.hopeless else "now"
            model.problem = f"it does not fit into memory {when}: {error}"
        else:
            model.problem = f"loading failed: {type(error).__name__}: {error}"
        if len(model.problem) > MOST_REASON_CHARACTERS:
            model.problem = f"{model.problem[:MOST_REASON_CHARACTERS]}... ({len(model.problem)} characters)"
        hopeless = isinstance(error, OutOfMemory) and error.hopeless
        model.state, model.passing = State.NOT_SERVING, passing(error) and not hopeless
        if model.passing and self._settings.poll_seconds:
            model.problem += "; the server tries it again by itself"
        model.close()
        self._metrics.models.loaded(model.name, time.monotonic() - began, ok=False)
        log.error(
            "bundle refused",
            model=model.name,
            version=model.version,
            file=model.problem_file,
            reason=model.problem,
        )

    def _open(self, load: Load) -> None:
        model = load.model
        path = self._folder(model.name, model.version)
        # First the manifest alone: what could be read of a bad bundle is still worth showing.
        model.manifest = abridged(read_manifest(path))
        bundle = read_bundle(path)
        model.placed = [Placed() for _ in self._places]
        place(self._places, model.placed, bundle, load.trial)
        self._verify(bundle, model)
        for role in model.programs:
            self._serve_role(load, bundle, role)
        model.device = ",".join(each.runtime.device for each in self._places)
        for endpoint in model.endpoints.values():
            endpoint.start()

    def _verify(self, bundle: Bundle, model: ModelVersion) -> None:
        """Replay the bundle's recorded answers on each device. What is broken off, as for want of memory, is no
        verdict.
        """
        began = time.monotonic()
        try:
            for placed in model.placed:
                # What a kernel answers was compared before it could run here.
                programs = placed.programs.items()
                replay(bundle, {name: each for name, each in programs if not isinstance(each, KernelProgram)})
        except BundleError:
            self._metrics.models.verified(model.name, time.monotonic() - began, ok=False)
            raise
        self._metrics.models.verified(model.name, time.monotonic() - began, ok=True)

    def _serve_role(self, load: Load, bundle: Bundle, role: str) -> None:
        """Make the lanes of a role, warm, and what calls see of it. OutOfMemory if not even one row fits."""
        model = load.model
        program = model.programs[role]
        name = f"{model.name}:{model.version} {role}"
        metrics = self._metrics.lanes.make(model.name, model.version, role, raster=isinstance(program, RasterProgram))
        quality = Quality(metrics.quality, bundle.manifest, program.role, self._looks)
        stats, pairs = LaneStats(metrics, quality=quality), list(zip(self._places, model.placed, strict=True))
        if isinstance(program, RasterProgram):
            raster = rasters([each.raster_endpoint(there, role, name, stats) for each, there in pairs], self._devices)
            model.endpoints[role] = raster
            model.roles[role] = self._roles.raster(model, program, raster)
        elif isinstance(program, OneShotProgram):
            one_shot = one_shots(
                [each.one_shot_endpoint(there, bundle, role, load.trial, name, stats) for each, there in pairs],
                self._devices,
            )
            model.endpoints[role] = one_shot
            model.roles[role] = self._roles.one_shot(model, program, one_shot)


def _slots_in_use(schedulers: Iterable[RasterScheduler]) -> Callable[[], int]:
    """Asks schedulers without keeping them: what shows the answer may outlive them."""
    references = [weakref.ref(scheduler) for scheduler in schedulers]

    def used() -> int:
        return sum(there.used for reference in references if (there := reference()) is not None)

    return used


def _about(model: ModelVersion) -> dict[str, str]:
    """What a loaded version is, for the metrics."""
    manifest = model.manifest
    assert manifest is not None, "a version that serves was read"
    image = manifest.image
    return {
        "family": manifest.family,
        "image": f"{image.height}x{image.width}x{image.channels}",
        "roles": ",".join(sorted(model.endpoints)),
        "device": model.device,
    }
