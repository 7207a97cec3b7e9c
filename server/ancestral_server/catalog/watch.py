"""Keeping the catalog as the models folder is."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from itertools import islice

import structlog

from ancestral_server.catalog.catalog import MOST_AT_ONCE, PATIENCE_SECONDS, Catalog
from ancestral_server.catalog.folder import Contents, Folder, Key, Stamp
from ancestral_server.catalog.retry import Retries
from ancestral_server.catalog.version import ModelVersion, State
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings

log = structlog.get_logger()

# A folder that is replaced by two renames is away for a moment; one that is away for longer is gone.
VANISHED_SECONDS = 0.25
# Where so many loads take long that no other can begin, those that are ready need not wait.
QUIET_SECONDS = 2 * PATIENCE_SECONDS
# Of what is ignored in the folder, so much is said in a line each: somebody may have given the folder of all they have.
MOST_SAID = 20


class Watcher:
    """Looks at the folder when the server starts, and from then on every few seconds."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._root = settings.models
        self._folder = Folder(settings.models)
        self._poll_seconds = settings.poll_seconds
        self._retries = Retries()
        self._first: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        # What was said of the folder, by path.
        self._said: dict[str, str] = {}

    async def start(self) -> None:
        """Load every bundle, then go on watching. A bad one is logged and kept as not serving; the others serve.

        Returns when all are loaded, but waits no longer than `PATIENCE_SECONDS` for the next step of one, and no longer
        than `QUIET_SECONDS` for anything to happen. What takes longer goes on being loaded.
        """
        if not self._root.is_dir():
            raise StartupError(
                f"--models {self._root}: no such folder; "
                f"`ancestral-exporter train RECIPE --models {self._root}` makes one"
            )
        first = self._first = asyncio.create_task(self.refresh())
        progress: tuple[int, ...] = ()
        while not first.done() and progress != self._catalog.progress:
            progress = self._catalog.progress
            await asyncio.wait({first}, timeout=QUIET_SECONDS)
        try:
            if first.done():
                first.result()
            else:
                log.warning("the door opens while models are being loaded", loading=len(self._catalog.loads))
        except OSError as error:
            raise StartupError(f"--models {self._root}: cannot be read: {error.strerror}") from error
        if not self._catalog.versions:
            hint = f"ancestral-exporter train digits-vae --models {self._root}"
            log.warning("no models", folder=str(self._root), hint=next(iter(self._said.values()), hint))
        if self._poll_seconds:
            self._watching = asyncio.create_task(self._watch())

    async def refresh(self) -> None:
        """Make the catalog what the folder is: load what is new or has changed, drop what is gone.

        The thread that looks at the folder also finds out what has changed, and what there is to do is done in small
        parts: calls go on however many versions there are.
        """
        contents, gone = await self._look()
        if gone:
            await asyncio.sleep(VANISHED_SECONDS)
            contents, gone = await self._look()
        self._tell(contents)
        away = set(gone)
        # At once where another version answers instead; else only when what comes in its place has been loaded.
        answered = {
            name
            for name in {name for name, _ in gone}
            if any(model.key not in away for model in self._catalog.serving(name))
        }
        await self._remove([key for key in gone if key[0] in answered])
        for key, known in await asyncio.to_thread(self._outdated, contents, time.monotonic()):
            await self._take_in(key, known)
        if gone:
            # Loading took its time: what was away then may be back.
            _, still = await self._look()
            await self._remove([key for key in still if key in away])

    async def _look(self) -> tuple[Contents, list[Key]]:
        """What is in the folder, and which of the versions that are known are not."""
        # Asked for before: what is brought and loaded meanwhile is not missing.
        known = list(self._catalog.versions)

        def look() -> tuple[Contents, list[Key]]:
            contents = self._folder.scan(time.time())
            return contents, [key for key in known if key not in contents.versions and key[0] not in contents.unsure]

        return await asyncio.to_thread(look)

    async def _remove(self, keys: list[Key]) -> None:
        for i, key in enumerate(keys):
            self._catalog.remove(key)
            self._retries.forget(key)
            if i % MOST_AT_ONCE == MOST_AT_ONCE - 1:
                await asyncio.sleep(0)

    async def _take_in(self, key: Key, known: ModelVersion | None) -> None:
        """Load what has changed, unless somebody else has done so since."""
        async with self._catalog.loading:
            if self._catalog.versions.get(key) is not known or key in self._catalog.loads:
                return
            self._folder.forget(key)
            load = await self._catalog.take_in(key)
        if load.done():
            self._loaded(key, load)
        else:
            load.add_done_callback(partial(self._loaded, key))

    def _loaded(self, key: Key, load: asyncio.Task[ModelVersion | None]) -> None:
        fresh = load.result()
        if fresh is not None and fresh.passing:
            self._retries.failed(key, time.monotonic())
        else:
            self._retries.forget(key)

    async def _watch(self) -> None:
        problem = ""
        if self._first is not None:
            # What it fails with the next look will too.
            await asyncio.wait({self._first})
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._catalog.stopping.wait(), self._poll_seconds)
            if self._catalog.stopping.is_set():
                return
            try:
                await self.refresh()
                problem = ""
            except OSError as error:  # a volume that is away for a while: what is loaded goes on serving
                if str(error) != problem:
                    problem = str(error)
                    log.error("the models folder cannot be read", folder=str(self._root), reason=problem)
            except Exception:
                log.exception("watching the models folder failed")

    def _tell(self, contents: Contents) -> None:
        """Say once what is there and not served, and why."""
        wrong = contents.unsure | contents.strays
        new = {path: why for path, why in wrong.items() if self._said.get(path) != why}
        for path, why in islice(new.items(), MOST_SAID):
            # A name of bytes that are no UTF-8 could not be written.
            shown = path if path.isprintable() else ascii(path)
            event = "a model's folder cannot be read" if path in contents.unsure else "ignored in the models folder"
            log.warning(event, folder=str(self._root), name=shown, reason=why)
        if len(new) > MOST_SAID:
            log.warning("more is ignored in the models folder", folder=str(self._root), entries=len(new) - MOST_SAID)
        self._said = wrong

    # ---- on a thread

    def _outdated(self, contents: Contents, now: float) -> list[tuple[Key, ModelVersion | None]]:
        """What to load, and what is known of it by now."""
        known = self._catalog.versions
        found = [(key, known.get(key), stamp) for key, stamp in contents.versions.items()]
        return [(key, model) for key, model, stamp in found if self._wanted(key, model, stamp, now)]

    def _wanted(self, key: Key, model: ModelVersion | None, stamp: Stamp, now: float) -> bool:
        """Whether it is new, or its manifest is; of one that was unloaded or refused, whether any file is, and of the
        latter also whether it is time to try again.
        """
        if model is None:
            return True
        if model.state is State.LOADING:
            return False
        if model.unloaded:
            # A change of permission or a hard link brings nothing back.
            return stamp.written != model.stamp.written
        if not model.problem:
            return stamp.manifest != model.stamp.manifest
        return stamp != model.stamp or (model.passing and self._retries.due(key, now))
