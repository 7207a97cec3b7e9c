"""One row with tiny settings has every figure; each switch replaces something that is there. Figures are not judged."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

import ablated
import ablation
from running import ServerProcess
from waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_a_row_has_every_figure_of_both_servers(
    untrained_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def models(tree: Path, folder: Path) -> None:
        assert tree == ROOT
        folder.symlink_to(untrained_models)

    out = tmp_path / "report"
    out.with_suffix(".json").write_text(json.dumps({"machine": "another one", "rows": [{"name": "uvloop"}]}))
    monkeypatch.setattr(ablation, "export", models)
    flags = ["--only", "fill", "--pairs", "2", "--seconds", "0.05", "--in-flight", "2", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *flags])
    ablation.main()
    report = json.loads(out.with_suffix(".json").read_text())
    (row,) = report["rows"]
    assert (row["name"], row["says"]) == ("fill", "All queued rows are run, padded to the next size.")
    assert set(row["rates"]) == {"Encode 2", "ModelInfer 2", ablation.STREAM, ablation.SAMPLER}
    assert set(row["costs"]) == {"Encode 2", "ModelInfer 2", ablation.STREAM}
    figures = [*row["rates"].values(), *row["costs"].values(), row["latency"]]
    assert all(len(ratios) == 2 and min(ratios) > 0 for ratios in figures)
    text = out.with_suffix(".md").read_text()
    assert text.count("| fill | ") == 3
    assert text in capsys.readouterr().out


def test_an_effect_is_told_with_its_error() -> None:
    assert ablation.change([1.1, 1.1]) == "+10.0 ± 0.0"
    assert ablation.change([0.9, 0.8]) == "-15.0 ± 5.0"


@pytest.mark.parametrize("switch", sorted(ablated.SWITCHES.keys() - {ablated.CONTROL}))
def test_a_switch_replaces_what_is_there(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replaced = dict(os.environ), list[str]()

    def replace(owner: object, name: str, value: object) -> None:
        monkeypatch.setattr(owner, name, value)
        replaced.append(name)

    monkeypatch.setenv("GRPC_EXPERIMENTS", "")
    ablated.SWITCHES[switch](replace)
    assert replaced or os.environ != before
    assert ablated.SWITCHES[switch].__doc__


def test_a_server_without_a_heuristic_is_the_checkouts_own(toy_models: Path) -> None:
    launcher = ROOT / "tests" / "benchmarks" / "ablated.py"
    with ServerProcess(toy_models, program=(str(launcher), str(ROOT), "uvloop")) as server:
        assert server.metric("ancestral_models_serving") >= 0
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "/grpc/" in loaded
        assert "/uvloop/" not in loaded


def test_the_server_that_is_traced_has_a_collector(toy_models: Path) -> None:
    with ablation.collector() as url, ablation.Side(ROOT, toy_models, flags=ablation.traced(url)).server() as server:
        assert 'ancestral_spans_total{outcome="sent"} 0.0' in server.metrics()
        host, _, port = url.removeprefix("http://").partition(":")
        socket.create_connection((host, int(port)), PATIENCE).close()
