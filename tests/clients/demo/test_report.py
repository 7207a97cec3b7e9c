from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from ancestral.terminal import console
from ancestral_demo.digits import LABELLED, Accuracy
from ancestral_demo.latency import Latency
from ancestral_demo.report import Likelihood, Report

REPORT = Report(
    likelihoods=[
        Likelihood("digits-vae-features", "features for a classifier", 1, "vae", 2.05, exact=False),
        Likelihood("digits-pixelcnn", "completions", 2, "pixelcnn", 1.79, exact=True),
    ],
    accuracies=[Accuracy(name, n, 0.9, 0.01 if n < 1000 else 0.0) for name in ("a", "b") for n in LABELLED],
    latencies=[Latency("Encode", 200, 0.0005, 0.002)],
    seconds=12.3,
)


def test_markdown_and_json_hold_every_figure(tmp_path: Path) -> None:
    REPORT.write(tmp_path)
    text = (tmp_path / "report.md").read_text()
    for line in (
        "| digits-vae-features version 1 | ≤ 2.050 | 2.27 (VAE, bound) | features for a classifier |",
        "| digits-pixelcnn version 2 | 1.790 | 2.00 (autoregressive) | completions |",
        "| a | 90.0 % ± 1.0 | 90.0 % ± 1.0 | 90.0 % |",
        "| Encode | 200 | 0.50 | 2.00 |",
    ):
        assert line in text.splitlines(), text
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["likelihoods"][1]["bits_per_dim"] == 1.79
    assert document["latencies"][0]["p99"] == 0.002
    assert document["uniform_bits_per_dim"] == 4.09


def test_the_terminal_shows_the_same_figures() -> None:
    out = StringIO()
    REPORT.print(console(file=out, width=80))
    for figure in ("digits-vae-features", "≤ 2.050", "1.790", "90.0 % ± 1.0", "0.50", "2.00"):
        assert figure in out.getvalue()
