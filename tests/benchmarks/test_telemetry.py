"""A short run: what the histogram says is what the server's own clock said, whatever that was."""

from __future__ import annotations

from pathlib import Path

import telemetry
from ancestral_server.metrics import SECONDS_BUCKETS


def test_a_histogram_tells_the_p99_of_its_calls_and_a_scrape_stays_small(tmp_path: Path) -> None:
    report = telemetry.measure(tmp_path, [1, 3, 8], calls=120, models=2, scrapes=1)
    for load in report["loads"]:
        assert load["counted"] == load["calls"] == 120
        # Of rounded seconds, in the log; a bucket is half as wide again as the one before.
        assert abs(load["histogram_bucket"] - load["server_bucket"]) <= 1
        assert load["least_client_own_ms"] > -0.001
    scrape = report["scrape"]
    # Of three roles with six histograms each, of 44 lines and fewer; twenty of them are 16,000 lines.
    assert 0 < scrape["samples_by_model"] <= 820
    assert scrape["samples"] <= 2 * 820 + 1200


def test_buckets_and_quantiles_are_counted_alike() -> None:
    seconds = [1e-5 * 1.2**n for n in range(60)]
    upto = [sum(each <= bound for each in seconds) for bound in SECONDS_BUCKETS] + [len(seconds)]
    for q in (0.01, 0.5, 0.99, 1.0):
        assert telemetry.bucket(telemetry.quantile(seconds, q)) == telemetry.bucket_of_quantile(upto, q)
