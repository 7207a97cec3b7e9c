"""A lane that fails turns health; all else of the catalog is tested on the real server (integration/test_reload.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ancestral_server.catalog import Catalog, Watcher
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings


def test_a_lane_that_fails_turns_the_health_of_its_version_until_it_is_back(toy_models: Path) -> None:
    async def work() -> None:
        settings = Settings(models=toy_models, threads=1, poll_seconds=0, _cli_parse_args=[])  # type: ignore[call-arg]
        catalog = Catalog(settings, Runtime("cpu", 1), Metrics("0"), Arrivals())
        await Watcher(catalog, settings).start()
        model = catalog.find("tally", 1)
        changed = asyncio.Event()
        catalog.on_change = changed.set
        for down in (True, False):
            changed.clear()
            # As a thread of the lane's does when its loop has failed, and when it begins anew.
            await asyncio.to_thread(model.lanes["encode"]._set_down, 0, down)
            await asyncio.wait_for(changed.wait(), 10)
            assert model.healthy is not down
            assert model.serving
        await catalog.drain(5)

    asyncio.run(work())
