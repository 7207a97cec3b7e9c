"""All versions of all models: which one answers a call, and every change of that.

Everything here happens on the event loop; threads look at the folder, load and close. So a call finds its model without
a lock, and a change is seen by all calls that come after it and by none before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import structlog

from ancestral_server.catalog import folder
from ancestral_server.catalog.folder import Key
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.version import ModelVersion, State
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import BundleRefused, NotFound, ServerError, Stopping, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings

T = TypeVar("T")

log = structlog.get_logger()

# When to ask again for a version that is being loaded.
LOADING_RETRY_SECONDS = 1.0
# How many models or versions a message lists.
MOST_LISTED = 10
# How long callers that still wait when the drain time is over may take to hear so.
LAST_WORDS_SECONDS = 5.0


def some(things: Iterable[object]) -> str:
    """A list for a message to a caller: a folder may hold hundreds."""
    texts = [str(thing) for thing in things]
    more = len(texts) - MOST_LISTED
    return (", ".join(texts[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")) or "none"


class Catalog:
    """All versions of all models in a folder."""

    def __init__(self, settings: Settings, runtime: Runtime, metrics: Metrics, arrivals: Arrivals) -> None:
        self._root = settings.models
        self._loader = Loader(settings, runtime, metrics, arrivals)
        self._metrics = metrics
        # What is, by name and version; a version that has left it drains in `_leaving` and is found by no call.
        self.versions: dict[Key, ModelVersion] = {}
        self._leaving: dict[ModelVersion, asyncio.Task[None]] = {}
        # What `find` reads: those that serve, and the highest of each name.
        self._exact: dict[Key, ModelVersion] = {}
        self._highest: dict[str, ModelVersion] = {}
        self._names: frozenset[str] = frozenset()
        # How often that has changed: what a call has found, others will find as long as it does not.
        self.changes = 0
        # Versions are loaded one at a time: beside those that serve there is little room.
        self.loading = asyncio.Lock()
        # Loads that were asked for and have not begun.
        self._asked: dict[Key, asyncio.Task[ModelVersion | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # Set when the server is about to end: no call is let in and nothing more is loaded. Streams hear of it from
        # `rpc.draining`.
        self.stopping = asyncio.Event()
        # Called after every change; whoever wants to know looks at the catalog then.
        self.on_change: Callable[[], None] = lambda: None

    # ---- calls

    def get(self, name: str, version: int) -> ModelVersion | None:
        """The version that answers, 0 meaning the highest that serves; None if none does."""
        return self._exact.get((name, version)) if version else self._highest.get(name)

    def find(self, name: str, version: int) -> ModelVersion:
        """The same; NotFound or Unavailable if none does."""
        model = self.get(name, version)
        if model is None:
            raise self._refusal(name, version)
        return model

    def describe(self, name: str, version: int) -> ModelVersion:
        """Like `find`, but also those that do not serve: the highest that serves, else the highest."""
        models = {model.version: model for model in self if model.name == name}
        if not models:
            raise NotFound(name, f"no model {name!r}; there are: {some(dict.fromkeys(model.name for model in self))}")
        if version:
            if version not in models:
                raise NotFound(f"{name}:{version}", f"model {name} has no version {version}; it has {some(models)}")
            return models[version]
        return max(models.values(), key=lambda model: (model.serving, model.version))

    def __contains__(self, name: str) -> bool:
        """Whether there is a model of that name, whatever becomes of it."""
        return name in self._names

    def __iter__(self) -> Iterator[ModelVersion]:
        """By name, then by version; those that drain as well, unless another of that version has taken over."""
        models = dict(self.versions)
        for model in self._leaving:
            if model.key not in models or models[model.key].state is State.NOT_SERVING:
                models[model.key] = model
        return (models[key] for key in sorted(models))

    def _refusal(self, name: str, version: int) -> ServerError:
        if self.stopping.is_set():
            return Stopping()
        try:
            model = self.describe(name, version)
        except NotFound as error:
            return error
        resource, what = f"{name}:{model.version}", f"model {name} version {model.version}"
        if model.state is State.DRAINING:
            return Unavailable(resource, f"{what} is being unloaded")
        if model.state is State.LOADING:
            return Unavailable(resource, f"{what} is being loaded", LOADING_RETRY_SECONDS)
        return Unavailable(resource, f"{what} does not serve: {model.problem}")

    # ---- changes

    async def load(self, name: str, version: int) -> ModelVersion:
        """Load a version from its folder now, 0 meaning the highest there. One that serves goes on meanwhile.

        NotFound if there is no such folder, BundleRefused if it is not fit to serve, Stopping if the server ends first.
        """
        there = await asyncio.to_thread(folder.numbers, self._root, name)
        if not there or (version and version not in there):
            resource = f"{name}:{version}" if version else name
            what = f"it has versions {some(there)}" if there else f"no version of {name} is there"
            raise NotFound(resource, f"nothing to load for {resource} in the models folder: {what}")
        key = name, version or there[-1]
        # Whoever asks while the same load waits for its turn shares it: callers that give up and come again add none.
        if key not in self._asked:
            self._asked[key] = self._spawn(self._load_in_turn(key))
        fresh = await self._unless_stopping(self._asked[key])
        resource = f"{name}:{key[1]}"
        if fresh is None:
            raise Unavailable(resource, f"{resource} was unloaded or removed while it was being loaded")
        if not fresh.serving:
            raise BundleRefused(resource, fresh.problem_file, fresh.problem)
        return fresh

    async def unload(self, name: str, version: int) -> None:
        """Take a version out of service, 0 meaning all of that name; done when its calls have ended and it is gone.

        Watching does not bring it back until its files change. NotFound, or Stopping if the server ends first.
        """
        self.describe(name, version)
        for key, model in list(self.versions.items()):
            if key[0] == name and version in (0, key[1]):
                self.versions[key] = model.without_lanes()
                self._retire(model)
        for model, task in list(self._leaving.items()):
            if model.name == name and version in (0, model.version):
                await self._unless_stopping(task)

    async def _load_in_turn(self, key: Key) -> ModelVersion | None:
        async with self.loading:
            del self._asked[key]
            return await self.take_in(key)

    async def take_in(self, key: Key) -> ModelVersion | None:
        """Load a version beside the one that it replaces; `loading` is held.

        None if it was unloaded meanwhile, or the server ends.
        """
        if self.stopping.is_set():
            return None
        before = self.versions.get(key)
        if before is None or not before.serving:
            before = self.versions[key] = ModelVersion(*key)
            self._changed()
        fresh = await asyncio.to_thread(self._loader.load, *key)
        if self.versions.get(key) is not before or self.stopping.is_set():
            await asyncio.to_thread(fresh.close)
            if (now := self.versions.get(key)) is not None:
                now.stamp = fresh.stamp  # what it was unloaded from: no reason to load it again
            self._forget(key)
            return None
        if fresh.serving:
            for endpoint in fresh.endpoints.values():
                endpoint.on_health(self._health_teller())
            self.versions[key] = fresh
            if before.serving:
                self._retire(before)
        elif before.serving:
            before.stamp, before.problem, before.problem_file = fresh.stamp, fresh.problem, fresh.problem_file
        else:
            self.versions[key] = fresh
            self._forget(key)
        self._changed()
        return fresh

    def _health_teller(self) -> Callable[[], None]:
        """What a lane calls, on whatever thread, when it fails and when it is back."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(lambda: self.on_change())

        return tell

    def remove(self, key: Key) -> None:
        """Forget a version whose folder is gone."""
        model = self.versions.pop(key, None)
        if model is not None:
            self._retire(model)

    def _retire(self, model: ModelVersion) -> None:
        """Let a version that has left the table go as soon as no call holds it."""
        if model.serving:
            log.info("model drains", model=model.name, version=model.version, calls=model.users)
            model.state = State.DRAINING
            self._leaving[model] = self._spawn(self._leave(model))
        self._changed()

    async def _leave(self, model: ModelVersion) -> None:
        await model.unused()
        await asyncio.to_thread(model.close)
        del self._leaving[model]
        self._forget(model.key)
        self._changed()
        log.info("model unloaded", model=model.name, version=model.version)

    def _forget(self, key: Key) -> None:
        """Drop the series of a version's lanes unless there are, or will be, such lanes."""
        now = self.versions.get(key)
        lanes = now is not None and now.state is not State.NOT_SERVING
        if not lanes and all(model.key != key for model in self._leaving):
            self._metrics.forget_lanes(*key)

    def _changed(self) -> None:
        """Let calls find what is there now, and tell whoever wants to know."""
        self._names = frozenset(model.name for model in self)
        serving = {key: self.versions[key] for key in sorted(self.versions) if self.versions[key].serving}
        self.changes += 1
        if not self.stopping.is_set():
            self._exact, self._highest = serving, {model.name: model for model in serving.values()}
        self._metrics.models(
            {key: model.serving for key, model in self.versions.items() if model.serving or model.refused}
        )
        self.on_change()

    # ---- the end

    async def drain(self, seconds: float) -> None:
        """Let no call in; return when those that run have been answered, with UNAVAILABLE once the seconds are over."""
        self.stopping.set()
        self._exact, self._highest = {}, {}
        self.changes += 1
        models = [*self.versions.values(), *self._leaving]
        running = [asyncio.ensure_future(model.unused()) for model in models]
        late: set[asyncio.Future[None]] = set()
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
        if late:
            log.warning("the drain time is over", calls=sum(model.users for model in models))
        closing = [asyncio.ensure_future(asyncio.to_thread(model.close)) for model in models]
        if closing:
            await asyncio.wait([*closing, *late], timeout=LAST_WORDS_SECONDS)

    async def _unless_stopping(self, task: asyncio.Task[T]) -> T:
        """The task's result; Stopping if the server ends first. The task goes on if whoever waits for it leaves."""
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self.stopping.is_set():
            raise Stopping
        return task.result()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
