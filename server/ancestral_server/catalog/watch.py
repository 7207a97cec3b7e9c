"""Keeping the catalog as the models folder is."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from ancestral_server.catalog import folder
from ancestral_server.catalog.catalog import Catalog
from ancestral_server.catalog.folder import Key
from ancestral_server.errors import StartupError
from ancestral_server.settings import Settings

log = structlog.get_logger()

# A folder that is replaced by two renames is away for a moment; one that is away for longer is gone.
VANISHED_SECONDS = 0.25


class Watcher:
    """Looks at the folder when the server starts, and from then on every few seconds."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self._catalog = catalog
        self._root = settings.models
        self._poll_seconds = settings.poll_seconds
        self._watching: asyncio.Task[None] | None = None
        # Of which that was said.
        self._unsure: frozenset[str] = frozenset()

    async def start(self) -> None:
        """Load every bundle, then go on watching. A bad one is logged and kept as not serving; the others serve."""
        if not self._root.is_dir():
            raise StartupError(
                f"--models {self._root}: no such folder; "
                f"`ancestral-exporter train RECIPE --models {self._root}` makes one"
            )
        try:
            await self.refresh()
        except OSError as error:
            raise StartupError(f"--models {self._root}: cannot be read: {error.strerror}") from error
        if not self._catalog.versions:
            hint = f"ancestral-exporter train digits-vae --models {self._root}"
            log.warning("no models", folder=str(self._root), hint=hint)
        if self._poll_seconds:
            self._watching = asyncio.create_task(self._watch())

    async def refresh(self) -> None:
        """Make the catalog what the folder is: load what is new or has changed, drop what is gone."""
        async with self._catalog.loading:
            contents = await asyncio.to_thread(folder.scan, self._root)
            if self._missing(contents):
                await asyncio.sleep(VANISHED_SECONDS)
                contents = await asyncio.to_thread(folder.scan, self._root)
            for name in sorted(contents.unsure - self._unsure):
                log.warning("a model's folder cannot be read", folder=str(self._root), name=ascii(name))
            self._unsure = contents.unsure
            gone = self._missing(contents)
            # At once where another version answers instead; else only when what comes in its place has been loaded.
            answered = {model.name for model in self._catalog if model.serving and model.key not in gone}
            for key in gone:
                if key[0] in answered:
                    self._catalog.remove(key)
            for key, stamp in contents.versions.items():
                if self._outdated(key, stamp):
                    await self._catalog.take_in(key)
            # Loading took its time: what was away then may be back.
            left = self._missing(await asyncio.to_thread(folder.scan, self._root)) if gone else []
            for key in left:
                if key in gone:
                    self._catalog.remove(key)

    async def _watch(self) -> None:
        problem = ""
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

    def _missing(self, contents: folder.Contents) -> list[Key]:
        known = self._catalog.versions
        return [key for key in known if key not in contents.versions and key[0] not in contents.unsure]

    def _outdated(self, key: Key, stamp: folder.Stamp) -> bool:
        """Whether it is new, or its manifest is; of one that was refused or unloaded, whether any file is."""
        model = self._catalog.versions.get(key)
        if model is None:
            return True
        return stamp != model.stamp if model.problem else stamp.manifest != model.stamp.manifest
