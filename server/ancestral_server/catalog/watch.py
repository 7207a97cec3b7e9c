"""Keeping the catalog as the folders of models are."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import structlog

from ancestral_server.catalog.catalog import MOST_AT_ONCE, PATIENCE_SECONDS, Catalog
from ancestral_server.catalog.folder import Contents, Folder, Key, Stamp, together
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
    """Looks at the folders when the server starts, and from then on every few seconds."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._roots = settings.model_folders
        self._folders = [Folder(root) for root in self._roots.values()]
        self._poll_seconds = settings.poll_seconds
        self._retries = Retries()
        self._first: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        # What was said of each folder, by path.
        self._said: dict[Path, dict[str, str]] = {root: {} for root in self._roots.values()}

    async def start(self) -> None:
        """Load every bundle, then go on watching. A bad one is logged and kept as not serving; the others serve.

        Returns when all are loaded, but waits no longer than `PATIENCE_SECONDS` for the next step of one, and no longer
        than `QUIET_SECONDS` for anything to happen. What takes longer goes on being loaded.
        """
        for flag, root in self._roots.items():
            if not root.is_dir():
                raise StartupError(
                    f"{flag} {root}: no such folder; `ancestral-exporter train RECIPE --models {root}` makes one"
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
            flag = next((flag for flag, root in self._roots.items() if str(root) == error.filename), "--models")
            raise StartupError(f"{flag} {self._roots[flag]}: cannot be read: {error.strerror}") from error
        if not self._catalog.versions:
            root = self._roots["--models"]
            hint = f"ancestral-exporter train digits-vae --models {root}"
            said = (why for of_root in self._said.values() for why in of_root.values())
            log.warning("no models", folder=str(root), hint=next(said, hint))
        if self._poll_seconds:
            self._watching = asyncio.create_task(self._watch())

    async def refresh(self) -> None:
        """Make the catalog what the folders are: load what is new or has changed, drop what is gone.

        The thread that looks at the folders also finds out what has changed, and what there is to do is done in small
        parts: calls go on however many versions there are.
        """
        found, gone = await self._look()
        if gone:
            await asyncio.sleep(VANISHED_SECONDS)
            found, gone = await self._look()
        for root, there in zip(self._said, found, strict=True):
            self._tell(root, there)
        contents = together(found)
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

    async def _look(self) -> tuple[list[Contents], list[Key]]:
        """What is in each folder, and which of the versions that are known are in none."""
        # Asked for before: what is brought and loaded meanwhile is not missing.
        known = list(self._catalog.versions)

        def look() -> tuple[list[Contents], list[Key]]:
            found = [folder.scan(time.time()) for folder in self._folders]
            contents = together(found)
            return found, [key for key in known if key not in contents.versions and key[0] not in contents.unsure]

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
            for folder in self._folders:
                folder.forget(key)
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
                    where = error.filename or str(self._roots["--models"])
                    log.error("the models folder cannot be read", folder=where, reason=problem)
            except Exception:
                log.exception("watching the models folder failed")

    def _tell(self, root: Path, contents: Contents) -> None:
        """Say once what is there and not served, and why."""
        wrong = contents.unsure | contents.strays
        new = {path: why for path, why in wrong.items() if self._said[root].get(path) != why}
        for path, why in islice(new.items(), MOST_SAID):
            # A name of bytes that are no UTF-8 could not be written.
            shown = path if path.isprintable() else ascii(path)
            event = "a model's folder cannot be read" if path in contents.unsure else "ignored in the models folder"
            log.warning(event, folder=str(root), name=shown, reason=why)
        if len(new) > MOST_SAID:
            log.warning("more is ignored in the models folder", folder=str(root), entries=len(new) - MOST_SAID)
        self._said[root] = wrong

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
