"""What the metrics tell of models as they come, work and go: the real loader and lanes, scraped."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import Catalog
from ancestral_server.engine.arrivals import Arrivals
from ancestral_server.engine.endpoint import OneShotEndpoint, RasterEndpoint
from ancestral_server.engine.job import OneShotJob, RasterJob
from ancestral_server.errors import BundleRefused
from ancestral_server.metrics import Metrics
from ancestral_server.runtime.session import Runtime
from ancestral_server.settings import Settings
from waiting import eventually

READ: Any = text_string_to_metric_families


def test_a_model_is_seen_to_come_to_work_and_to_go(tmp_path: Path) -> None:
    metrics = Metrics("test")

    def value(name: str, **labels: str) -> float | None:
        """The one sample of that name that has these labels; None if there is none."""
        found = [
            sample.value
            for family in READ(metrics.scrape(False).decode())
            for sample in family.samples
            if sample.name == f"ancestral_{name}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) < 2, found
        return found[0] if found else None

    def text_of(label: str) -> str:
        (info,) = (f for f in READ(metrics.scrape(False).decode()) if f.name == "ancestral_model_info")
        return str(info.samples[0].labels[label])

    async def work() -> None:
        settings = Settings(models=tmp_path, device="cpu", poll_seconds=0, threads=1, max_batch=4, slots=8)
        catalog = Catalog(settings, Runtime("cpu", 1), metrics, Arrivals())
        loop = asyncio.get_running_loop()
        try:
            model = await catalog.load("tally", 1)
            assert (value("model_loads_total", outcome="loaded"), value("model_loads_total", outcome="refused")) == (
                1,
                0,
            )
            for seconds, good, bad in (("load", "loaded", "refused"), ("verification", "passed", "failed")):
                assert value(f"model_{seconds}_seconds_count", outcome=good) == 1
                assert value(f"model_{seconds}_seconds_count", outcome=bad) == 0
                spent = value(f"model_{seconds}_seconds_sum", outcome=good)
                assert spent is not None
                assert spent > 0
            told = {label: text_of(label) for label in ("family", "image", "roles", "device")}
            assert told == {"family": "tally", "image": "4x3x1", "roles": "encode,sample,score", "device": "cpu"}

            sampler, encoder = model.endpoints["sample"], model.endpoints["encode"]
            assert isinstance(sampler, RasterEndpoint)
            assert isinstance(encoder, OneShotEndpoint)
            # Only of a role that paints, and before its first call.
            assert (value("slots", role="sample"), value("slots_in_use", role="sample")) == (8, 0)
            assert (value("slots", role="encode"), value("rows_painted_total", role="encode")) == (None, None)
            assert value("rows_painted_total", role="sample") == 0
            assert value("images_total", role="encode") == 0

            # Twelve samples on eight slots: two requests, one of them larger than the slots.
            samplings = [RasterJob(rows=n, future=loop.create_future()) for n in (2, 10)]
            for sampling in samplings:
                sampler.submit(sampling)
            await asyncio.gather(*(sampling.future for sampling in samplings))
            image = np.zeros((3, 4, 3, 1), np.uint8)
            inputs, wanted = {bundle_pb2.MEANING_IMAGE: image}, [bundle_pb2.MEANING_MEAN]
            encoding = OneShotJob(rows=3, future=loop.create_future(), inputs=inputs, wanted=wanted)
            encoder.submit(encoding)
            await encoding.future
            await eventually(lambda: value("images_total", role="sample") == 12)
            assert value("rows_painted_total", role="sample") == 12 * toybundle.HEIGHT
            assert value("slots_in_use", role="sample") == 0
            assert value("images_total", role="encode") == 3
            # What the images were like is looked at once the callers have their answers.
            await eventually(lambda: value("images_inspected_total", role="encode") == 3)
            await eventually(lambda: value("images_inspected_total", role="sample") in (2, 10, 12))
            assert value("images_inspected_total", role="score") == 0
            compared = value("samples_compared_total", role="sample")
            assert compared is not None
            assert compared > 0
            assert value("samples_compared_total", role="encode") is None
            # Each request has one first row and one end, and the first is not after the second.
            assert value("first_row_seconds_count", role="sample") == 2
            assert value("first_row_seconds_count", role="encode") is None
            assert value("request_seconds_count", role="sample") == 2
            first, whole = value("first_row_seconds_sum", role="sample"), value("request_seconds_sum", role="sample")
            assert first is not None
            assert whole is not None
            assert 0 < first < whole
            assert value("request_seconds_count", role="encode") == 1
            ran = value("run_seconds_total", role="encode")
            assert ran is not None
            assert ran > 0

            # One that answers wrongly is refused by its verification; the one before goes on.
            toybundle.write(tmp_path, version=2, scale=200)
            with pytest.raises(BundleRefused, match="golden replay differs"):
                await catalog.load("tally", 2)
            assert value("model_verification_seconds_count", outcome="failed") == 1
            assert value("model_load_seconds_count", outcome="refused") == 1
            assert value("model_serving", version="2") == 0
            assert value("model_info", version="2") is None

            # A version that has left and is still in use drains; when nothing of the model is left, nor is its series.
            assert value("model_draining") is None
            with catalog.find("tally", 1):
                for version in (1, 2):
                    catalog.remove(("tally", version))
                assert value("model_draining", version="1") == 1
                assert value("model_loads_total", outcome="loaded") == 1
            await eventually(lambda: value("model_draining") is None)
            assert "tally" not in metrics.scrape(False).decode()
            assert value("server_stopping") == 0
        finally:
            await catalog.drain(5)
        assert value("server_stopping") == 1

    toybundle.write(tmp_path)
    asyncio.run(work())
