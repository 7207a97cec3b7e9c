"""All versions of all models: which one answers a call, and every change of that.

Everything here happens on the event loop; threads look at the folder, load and close. So a call finds its model without
a lock, and a change is seen by all calls that come after it and by none before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import structlog

from ancestral_server.catalog import folder
from ancestral_server.catalog.folder import Key
from ancestral_server.catalog.loader import Loader
from ancestral_server.catalog.shelf import Shelf
from ancestral_server.catalog.version import NO_ROLES, ModelVersion, RoleMaker, State
from ancestral_server.ending import LEAST_WORDS_SECONDS
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.errors import BundleRefused, NotFound, ServerError, Stopping, Unavailable
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings

T = TypeVar("T")

log = structlog.get_logger()

# A load of which no graph was opened and no run ended for so long lets the next begin beside it; so many at a time at
# most, since beside those that serve there is little room. The longest step of the MNIST PixelCNN took 5 s on two cores
# that fourteen threads wanted; what never ends takes `--load-seconds`.
PATIENCE_SECONDS = 15.0
MOST_LOADING = 3
# When to ask again for a version that is being loaded.
LOADING_RETRY_SECONDS = 1.0
# How many models or versions a message lists.
MOST_LISTED = 10
# So many versions are taken out before calls have their turn: each costs a tenth of a millisecond, for its log line.
MOST_AT_ONCE = 32


def some(things: Collection[object]) -> str:
    """A list for a message to a caller: a folder may hold thousands."""
    more = len(things) - MOST_LISTED
    return (", ".join(map(str, islice(things, MOST_LISTED))) + (f" and {more} more" if more > 0 else "")) or "none"


class Catalog:
    """All versions of all models in the folders. others: further devices, each of which has all of them as well."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        metrics: Metrics,
        arrivals: Arrivals,
        roles: RoleMaker = NO_ROLES,
        others: Sequence[Runtime] = (),
    ) -> None:
        self._roots = list(settings.model_folders.values())
        self._loader = Loader(settings, runtime, metrics, arrivals, roles, others)
        self._metrics = metrics
        # What is, by name and version; a version that has left it drains in `_leaving` and is found by no call.
        self.versions: dict[Key, ModelVersion] = {}
        self._leaving: dict[Key, dict[ModelVersion, asyncio.Task[None]]] = {}
        # The shelf of versions that serve; the one that `find` reads, empty once the server stops; and the one that is
        # shown to whoever asks which versions there are: all, draining ones too, unless another has taken their place.
        self._serving = Shelf()
        self._open = self._serving
        self._shown = Shelf()
        # How often they have changed.
        self._changes = 0
        # Held until a load is over, or has taken long.
        self.loading = asyncio.Lock()
        # The loads that go on.
        self.loads: dict[Key, asyncio.Task[ModelVersion | None]] = {}
        # Loads that were asked for and have not begun.
        self._asked: dict[Key, asyncio.Task[ModelVersion | None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        # Set when the server is about to end: no call is let in and nothing more is loaded. Streams hear of it from
        # `rpc.draining`.
        self.stopping = asyncio.Event()
        # Called after every change, with the versions that it was about; whoever wants to know looks at them then.
        self.on_change: Callable[[Collection[Key]], None] = lambda keys: None

    # ---- calls

    def get(self, name: str, version: int) -> ModelVersion | None:
        """The version that answers, 0 meaning the highest that serves; None if none does."""
        return self._open.exact.get((name, version)) if version else self._open.highest.get(name)

    def find(self, name: str, version: int) -> ModelVersion:
        """The same; NotFound or Unavailable if none does."""
        model = self.get(name, version)
        if model is None:
            raise self._refusal(name, version)
        return model

    def describe(self, name: str, version: int) -> ModelVersion:
        """Like `find`, but also those that do not serve: the highest that serves, else the highest."""
        if name not in self._shown:
            raise NotFound(name, f"no model {name!r}; there are: {some(self._shown.names)}")
        if version:
            found = self._shown.exact.get((name, version))
            if found is None:
                has = some(self._shown.numbers(name))
                raise NotFound(f"{name}:{version}", f"model {name} has no version {version}; it has {has}")
            return found
        return self._serving.highest.get(name) or self._shown.highest[name]

    def serving(self, name: str) -> Sequence[ModelVersion]:
        """The versions of a model that answer calls, ascending."""
        return list(self._serving.of(name))

    def shown(self, key: Key) -> ModelVersion | None:
        """The version, whatever becomes of it; None if there is none."""
        return self._shown.exact.get(key)

    def __contains__(self, name: str) -> bool:
        """Whether there is a model of that name, whatever becomes of it."""
        return name in self._shown

    def __iter__(self) -> Iterator[ModelVersion]:
        """By name, then by version; those that drain as well, unless another of that version has taken over."""
        return iter(list(self._shown.after()))

    def after(self, key: Key, most: int) -> list[ModelVersion]:
        """The first of those that come after that version, which need not be there any more."""
        return list(islice(self._shown.after(key), most))

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
        there = await asyncio.to_thread(self._numbers, name)
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

    async def load_all(self, name: str) -> None:
        """Load every version of a model from its folder, as `load` does each; those that are fit serve, whatever is
        wrong with others. NotFound if there is none; else what `load` says of the highest that is not fit.
        """
        there = await asyncio.to_thread(self._numbers, name)
        # The highest first, which is what most calls are for.
        loads = [self.load(name, version) for version in there[::-1] or [0]]
        for result in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _numbers(self, name: str) -> list[int]:
        """The versions of a model on disk, ascending."""
        return folder.numbers(folder.home(self._roots, name), name)

    async def unloaded(self) -> list[Key]:
        """The versions in the folder that nobody has loaded or tried to, by name and version."""
        return [key for key in await asyncio.to_thread(folder.keys, self._roots) if key not in self.versions]

    async def unload(self, name: str, version: int) -> None:
        """Take a version out of service, 0 meaning all of that name; done when its calls have ended and it is gone.

        Watching does not bring it back until its files change. NotFound, or Stopping if the server ends first.
        """
        self.describe(name, version)
        keys = [(name, number) for number in self._shown.numbers(name) if version in (0, number)]
        for i, key in enumerate(keys):
            if (model := self.versions.get(key)) is not None:
                self.versions[key] = model.without_lanes()
                self._retire(model)
            if i % MOST_AT_ONCE == MOST_AT_ONCE - 1:
                await asyncio.sleep(0)
        for key in keys:
            for task in list(self._leaving.get(key, {}).values()):
                await self._unless_stopping(task)

    async def _load_in_turn(self, key: Key) -> ModelVersion | None:
        while True:
            async with self.loading:
                if (running := self.loads.get(key)) is None:
                    del self._asked[key]
                    running = await self.take_in(key)
                    break
            # The load that runs may have read what was there before.
            await asyncio.wait({running})
        return await running

    async def take_in(self, key: Key) -> asyncio.Task[ModelVersion | None]:
        """Load a version that is not being loaded, beside the one that it replaces; `loading` is held.

        Returns when it is loaded, or gets no further, so that others may begin. The result is None if it was unloaded
        meanwhile, or the server ends.
        """
        while len(self.loads) >= MOST_LOADING:
            await asyncio.wait(self.loads.values(), return_when=asyncio.FIRST_COMPLETED)
        task = self.loads[key] = self._spawn(self._load_and_replace(key))
        steps = -1
        while not task.done() and steps != self._loader.steps(key):
            steps = self._loader.steps(key)
            await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if not task.done():
            log.warning("a load takes long", model=key[0], version=key[1], seconds=PATIENCE_SECONDS)
        return task

    @property
    def progress(self) -> tuple[int, ...]:
        """Something that differs from what it was as long as anything happens."""
        return self._changes, *map(self._loader.steps, self.loads)

    async def _load_and_replace(self, key: Key) -> ModelVersion | None:
        try:
            return await self._replace(key)
        finally:
            del self.loads[key]

    async def _replace(self, key: Key) -> ModelVersion | None:
        if self.stopping.is_set():
            return None
        before = self.versions.get(key)
        if before is None or not before.serving:
            before = self.versions[key] = ModelVersion(*key)
            self._changed(key)
        try:
            fresh = await asyncio.to_thread(self._loader.load, *key)
        except RuntimeError as error:  # there is no thread to load it on
            fresh = ModelVersion(*key, State.NOT_SERVING, problem=f"loading failed: {error}", passing=True)
            log.error("load failed", model=key[0], version=key[1], reason=str(error))
        if self.versions.get(key) is not before or self.stopping.is_set():
            await asyncio.to_thread(fresh.close)
            if (now := self.versions.get(key)) is not None:
                now.stamp = fresh.stamp  # what it was unloaded from: no reason to load it again
            self._forget(key)
            self._changed(key)
            return None
        if fresh.serving:
            for endpoint in fresh.endpoints.values():
                endpoint.on_health(self._health_teller(key))
            self.versions[key] = fresh
            if before.serving:
                self._retire(before)
        elif before.serving:
            before.refused_anew(fresh)
        else:
            self.versions[key] = fresh
            self._forget(key)
        self._changed(key)
        return fresh

    def _health_teller(self, key: Key) -> Callable[[], None]:
        """What a lane calls, on whatever thread, when it fails and when it is back."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(lambda: self.on_change([key]))

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
            self._leaving.setdefault(model.key, {})[model] = self._spawn(self._leave(model))
        self._changed(model.key)

    async def _leave(self, model: ModelVersion) -> None:
        await model.unused()
        await asyncio.to_thread(model.close)
        leaving = self._leaving[model.key]
        del leaving[model]
        if not leaving:
            del self._leaving[model.key]
        self._forget(model.key)
        self._changed(model.key)
        log.info("model unloaded", model=model.name, version=model.version)

    def _forget(self, key: Key) -> None:
        """Drop the series of a version's lanes unless there are, or will be, such lanes."""
        now = self.versions.get(key)
        lanes = now is not None and now.state is not State.NOT_SERVING
        if not lanes and key not in self._leaving:
            self._metrics.lanes.forget(*key)

    def _changed(self, key: Key) -> None:
        """Let calls find what is there of a version now, and tell whoever wants to know."""
        now, leaving = self.versions.get(key), self._leaving.get(key)
        self._serving.set(key, now if now is not None and now.serving else None)
        gone = now is None or now.state is State.NOT_SERVING
        self._shown.set(key, next(reversed(leaving)) if leaving and gone else now)
        self._metrics.models.state(
            *key, None if now is None or now.unloaded or now.state is State.LOADING else now.serving
        )
        self._metrics.models.draining(*key, len(leaving or ()))
        if key[0] not in self._shown:
            self._metrics.models.forget(key[0])
        self._changes += 1
        self.on_change([key])

    # ---- the end

    async def drain(self, seconds: float, words: float = LEAST_WORDS_SECONDS) -> None:
        """Let no call in; return when those that run have been answered, with UNAVAILABLE once the seconds are over.

        words: seconds that those may take to hear so, and runs that go on to end.
        """
        self.stopping.set()
        self._metrics.stopping()
        self._open = Shelf()
        self._changes += 1
        models = [model for model in self.versions.values() if model.serving]
        models += [model for leaving in self._leaving.values() for model in leaving]
        running = [asyncio.ensure_future(model.unused()) for model in models]
        late: set[asyncio.Future[None]] = set()
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
        if late:
            log.warning("the drain time is over", calls=sum(model.users for model in models))
        closing = [asyncio.ensure_future(asyncio.to_thread(model.close)) for model in models]
        if closing:
            await asyncio.wait([*closing, *late], timeout=words)

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
