"""What people watch by: made from one description, complete, and all of it there. Whether its queries find data is seen
in test_prometheus.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from ancestral_server.metrics import SECONDS_BUCKETS
from observability.__main__ import made
from observability.panels import BOARDS, Panel

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RUNBOOKS = {path.stem for path in (DEPLOY / "runbooks").glob("*.md")}
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
TESTS = [
    test
    for path in sorted((ROOT / "tests" / "deploy").glob("rules*_test.yml"))
    for test in yaml.safe_load(path.read_text())["tests"]
]


@pytest.mark.parametrize("path", made(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_made_is_as_the_description_says(path: Path) -> None:
    assert path.read_text() == made()[path], "run 'make generated'"


def test_nothing_else_lies_among_what_is_made() -> None:
    assert {*(DEPLOY / "grafana" / "dashboards").iterdir(), *(DEPLOY / "prometheus" / "consoles").iterdir()} < set(
        made()
    )


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: str(board.uid))
def test_a_dashboard_is_whole(board: Any) -> None:
    document = json.loads((DEPLOY / "grafana" / "dashboards" / f"{board.uid}.json").read_text())
    # Grafana's own types drop what they do not know: a misspelt key would be gone.
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(document))) == document
    variables = {variable["name"] for variable in document["templating"]["list"]}
    assert variables == {"datasource", "instance", "model", "version", "prometheus"}
    panels = [panel for panel in document["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    assert len(panels) == len(board.panels)
    for panel in panels:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert panel["targets"]
        (link,) = panel["links"]
        runbook = re.fullmatch(r"\$\{prometheus}/consoles/runbooks/(\w+)\.md", link["url"])
        assert runbook is not None
        assert runbook[1] in RUNBOOKS
        # No panel lies on another, or beyond the grid.
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_a_threshold_shows_what_is_bad() -> None:
    def colours(panel: Panel) -> list[tuple[float | None, str]]:
        from observability.grafana import _steps

        return [(step.value, step.color) for step in _steps(panel)]

    panel = Panel("", "", (), "")
    assert colours(panel) == [(None, "green")]
    assert colours(Panel("", "", (), "", thresholds=(1, 2))) == [(None, "green"), (1, "orange"), (2, "red")]
    assert colours(Panel("", "", (), "", thresholds=(1, 1))) == [(None, "green"), (1, "red")]
    low = Panel("", "", (), "", thresholds=(1, 0.5), low_is_bad=True)
    assert colours(low) == [(None, "red"), (0.5, "orange"), (1, "green")]


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert ALERTS.keys() == RUNBOOKS
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook_url"] == f"{{{{ $externalURL }}}}/consoles/runbooks/{name}.md"
        text = (DEPLOY / "runbooks" / f"{name}.md").read_text()
        said = "page: users are hurt" if rule["labels"]["severity"] == "page" else "ticket: it can wait"
        assert re.match(rf"# {name}\n\n\*{said}", text)
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What it means", "How to look", "What to do"]
        # Prometheus expands what stands in double braces.
        assert "{{" not in text


def test_each_alert_is_seen_to_fire_and_to_be_silent() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for test in TESTS:
        for wanted in test.get("alert_rule_test", ()):
            (fires if wanted.get("exp_alerts") else silent).add(wanted["alertname"])
    assert fires == silent == ALERTS.keys()
    (healthy,) = (test for test in TESTS if test["name"] == "a server that is well")
    assert {wanted["alertname"] for wanted in healthy["alert_rule_test"]} == ALERTS.keys()


def test_the_bound_of_what_is_late_is_a_bucket_of_the_server() -> None:
    bounds = set(re.findall(r'\ble="([^"]+)"', (DEPLOY / "prometheus" / "rules.yml").read_text()))
    assert bounds
    assert bounds <= {str(bound) for bound in SECONDS_BUCKETS}
