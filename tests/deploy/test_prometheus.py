"""The configuration of Prometheus and Alertmanager, checked by their own tools, and by real ones on a real server."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from playwright.sync_api import expect

from ancestral_client import Client, NotFound
from browsers import chromium, opened
from observability.panels import BOARDS
from running import ServerProcess
from waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIG = DEPLOY / "prometheus" / "prometheus.yml"
ALERTMANAGER = DEPLOY / "alertmanager" / "alertmanager.yml"
CONSOLE = DEPLOY / "prometheus" / "consoles" / "ancestral.html"

# What has no data while all is well, and why.
NO_DATA = {
    "ancestral_model_draining": "needs a version that was replaced and still has calls",
    "ALERTS": "needs an alert that fires",
    "ancestral_caller_": "needs a file of callers; tests/integration/test_security.py looks for each of them",
    "ancestral_gpu_": "needs a GPU; tests/integration/test_kernels.py looks for each of them on a stand-in for one",
}


def test_promtool_accepts_the_configuration(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    said = run_tool("promtool", "check", "config", CONFIG)
    assert "is valid prometheus config file syntax" in said.stdout
    assert "rules found" in said.stdout


def test_the_alerts_fire_when_they_should(run_tool: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    run_tool("promtool", "test", "rules", *sorted((ROOT / "tests" / "deploy").glob("rules*_test.yml")))


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class Prometheus:
    """A real Prometheus with our configuration and console page, pointed at another target and in a greater hurry.

    alertmanager: where to send alerts, which then fire at once.
    """

    def __init__(self, binary: Path, folder: Path, target: str, alertmanager: str = "") -> None:
        config = yaml.safe_load(CONFIG.read_text())
        # A scrape may take as long as the interval, also on a busy machine.
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        rules = (CONFIG.parent / name for name in config["rule_files"])
        config["rule_files"] = [str(path) for path in rules]
        assert config["alerting"]["alertmanagers"] == [{"static_configs": [{"targets": ["alertmanager:9093"]}]}]
        config["alerting"]["alertmanagers"] = []
        if alertmanager:
            config["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [alertmanager]}]}]
            (rules_file,) = config["rule_files"]
            (folder / "rules.yml").write_text(
                re.sub(r"^( +for: ).*$", r"\1 0s", Path(rules_file).read_text(), flags=re.M)
            )
            config["rule_files"] = [str(folder / "rules.yml")]
        (job,) = config["scrape_configs"]
        assert job["static_configs"] == [{"targets": ["server:9464"]}]
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        # As docker-compose.yml mounts them.
        shutil.copytree(DEPLOY / "runbooks", folder / "consoles" / "runbooks")
        shutil.copy(CONSOLE, folder / "consoles")
        listen = free_address()
        self.url = f"http://{listen}"
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={listen}",
                f"--web.console.templates={folder / 'consoles'}",
                f"--web.external-url={self.url}",
                "--rules.alert.resend-delay=1s",
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def page(self, path: str) -> tuple[str, str]:
        """What lies at a path, and its type."""
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=PATIENCE) as reply:
            return reply.read().decode(), reply.headers["Content-Type"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        address = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(address, timeout=PATIENCE) as reply:
            result = json.load(reply)["data"]["result"]
        assert isinstance(result, list)
        return result

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The answer to a query once it is not empty."""
        found: list[dict[str, Any]] = []

        def answered() -> bool:
            nonlocal found
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try:
                found = self.query(expression)
            except (urllib.error.URLError, ConnectionError):
                return False  # it is starting
            return bool(found)

        until(answered)
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


@pytest.fixture(scope="module")
def prometheus(
    tool: Callable[[str], Path], toy_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    target = urllib.parse.urlsplit(toy_server.metrics_url).netloc
    running = Prometheus(tool("prometheus"), tmp_path_factory.mktemp("prometheus"), target)
    yield running
    running.close()


def test_prometheus_scrapes_the_server(prometheus: Prometheus) -> None:
    prometheus.wait_for('up{job="ancestral"} == 1')
    (serving,) = prometheus.wait_for("ancestral_model_serving")
    assert serving["metric"]["model"] == "tally"
    # Every method is there at zero before its first call, so that rates and alerts work at once.
    methods = {row["metric"]["grpc_method"] for row in prometheus.wait_for("grpc_server_started_total")}
    assert {"Sample", "Encode", "Decode", "ExtractFeatures", "Score", "ListModels", "GetModel"} <= methods


def test_the_rules_give_the_latency_of_real_calls(prometheus: Prometheus, toy_server: ServerProcess) -> None:
    image = np.zeros((4, 3, 1), np.uint8)
    with Client(toy_server.address) as client:
        # A histogram is there from its first value on, and a rate is what was added to it since.
        client.encode("tally", image)
        prometheus.wait_for('grpc_server_handling_seconds_count{grpc_method="Encode"}')
        for _ in range(20):
            client.encode("tally", image)
        with pytest.raises(NotFound):
            client.sample("none", 1)
    name = "grpc_method:grpc_server_handling_seconds"
    rows = {}
    for quantile in ("p50", "p99"):
        # NaN, the quantile of no calls, compares false.
        (row,) = prometheus.wait_for(f'{name}:{quantile}{{grpc_method="Encode"}} > 0')
        rows[quantile] = float(row["value"][1])
    assert 0 < rows["p50"] <= rows["p99"]
    assert prometheus.wait_for('grpc_server_handled_total{grpc_method="Sample", grpc_code="NotFound"} > 0')


# ---- every query finds data

_SELECTOR = re.compile(r"[a-zA-Z_:][\w:]*\{[^}]*\}")
_NAME = re.compile(r"\b(?:ancestral[:_]|grpc_method:|grpc_server_|process_|ALERTS)[\w:]*")


def chosen(query: str) -> str:
    """A query as it is asked where nobody has chosen anything."""
    return re.sub(r"\$(instance|model|version)\b", ".*", query).replace("$__rate_interval", "1m")


def selectors(query: str) -> list[str]:
    """The series that a query is about: of each of them there must be some, whatever the query makes of none."""
    rest = _SELECTOR.sub(" ", query)
    return [*_SELECTOR.findall(query), *_NAME.findall(re.sub(r'"[^"]*"', "", rest))]


def dashboard_queries() -> dict[str, str]:
    """By where they stand, of the committed files; without those of what is told elsewhere."""
    found = {}
    for board in BOARDS:
        document = json.loads((DEPLOY / "grafana" / "dashboards" / f"{board.uid}.json").read_text())
        for panel in document["panels"]:
            for target in panel.get("targets", ()):
                found[f"{board.uid}: {panel['title']} {target['refId']}"] = target["expr"]
    return found


def console_queries() -> dict[str, str]:
    text = CONSOLE.read_text()
    rows = re.search(r"^const ROWS = (.*?^\]);$", text, re.M | re.S)
    assert rows is not None
    found = {
        f"console: {panel['title']} {i}": query["expr"]
        for row in json.loads(rows[1])
        for panel in row["panels"]
        for i, query in enumerate(panel["queries"])
    }
    tables = re.findall(r'query "((?:[^"\\]|\\.)*)"', text)
    assert len(tables) == 2
    return found | {f"console: table {i}": table.replace('\\"', '"') for i, table in enumerate(tables)}


def rule_queries() -> dict[str, str]:
    groups = yaml.safe_load((CONFIG.parent / "rules.yml").read_text())["groups"]
    return {str(rule.get("alert") or rule["record"]): rule["expr"] for group in groups for rule in group["rules"]}


def runbook_queries() -> dict[str, str]:
    return {
        f"{path.stem} {i}": query
        for path in sorted((DEPLOY / "runbooks").glob("*.md"))
        for i, query in enumerate(re.findall(r"^```promql\n(.*?)^```$", path.read_text(), re.M | re.S))
    }


def variable_queries() -> dict[str, str]:
    """What a dashboard's variables choose from."""
    found = {}
    for board in BOARDS:
        document = json.loads((DEPLOY / "grafana" / "dashboards" / f"{board.uid}.json").read_text())
        for variable in document["templating"]["list"]:
            if variable["type"] == "query":
                series = re.fullmatch(r"label_values\((.*), \w+\)", variable["query"])
                assert series is not None
                found[f"{board.uid}: ${variable['name']}"] = series[1]
    return found


def autoscaler_queries() -> dict[str, str]:
    keda = yaml.safe_load((DEPLOY / "kubernetes" / "keda" / "scaledobject.yaml").read_text())
    kserve = yaml.safe_load((DEPLOY / "kubernetes" / "kserve" / "digits.yaml").read_text())
    (trigger,) = keda["spec"]["triggers"]
    (metric,) = kserve["spec"]["predictor"]["autoScaling"]["metrics"]
    return {"keda": trigger["metadata"]["query"], "kserve": metric["external"]["metric"]["query"]}


def without_data(prometheus: Prometheus, queries: Mapping[str, str], parts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Which of the queries find nothing, nor may; `parts` are looked at in their selectors only, as what is compared
    with a limit finds nothing while all is well.
    """
    asked = {(where, chosen(query)) for where, query in queries.items()}
    asked |= {(where, chosen(one)) for where, query in {**queries, **parts}.items() for one in selectors(query)}
    return sorted(
        (where, query)
        for where, query in asked
        if not any(name in query for name in NO_DATA) and not prometheus.query(query)
    )


@pytest.fixture(scope="module")
def traffic(prometheus: Prometheus, toy_server: ServerProcess) -> Iterator[None]:
    """A little of every kind of call, as long as somebody looks."""
    over = threading.Event()
    image = np.zeros((2, 4, 3, 1), np.uint8)

    def call() -> None:
        with Client(toy_server.address) as client:
            while not over.wait(0.05):
                client.encode("tally", image)
                client.score("tally", image)
                client.sample("tally", 3)
                for _ in client.encode_stream("tally", image):
                    pass
                for _ in client.sample_stream("tally", 2):
                    pass

    caller = threading.Thread(target=call)
    caller.start()
    yield
    over.set()
    caller.join()


def test_every_query_of_every_panel_page_rule_and_runbook_finds_data(prometheus: Prometheus, traffic: None) -> None:
    queries = {**dashboard_queries(), **console_queries(), **variable_queries(), **autoscaler_queries()}
    parts = {**rule_queries(), **runbook_queries()}
    assert len(dashboard_queries()) > 50
    assert all(selectors(query) for query in {**queries, **parts}.values())
    missing: list[tuple[str, str]] = []

    def all_found() -> bool:
        nonlocal missing
        missing = without_data(prometheus, queries, parts)
        return not missing

    prometheus.wait_for('rate(grpc_server_handling_seconds_count{grpc_method="SampleStream"}[1m]) > 0')
    try:
        until(all_found)
    except AssertionError:
        raise AssertionError("find nothing:\n" + "\n".join(map(": ".join, missing))) from None
    # A misspelt name is found, wherever it stands.
    for name in ("ancestral_queued_images", "ancestral_model_serving", "grpc_server_handling_seconds_bucket"):
        for kind in (queries, parts):
            wrong = {where: query.replace(name, f"{name}s") for where, query in kind.items() if name in query}
            assert wrong
            assert {where for where, _ in without_data(prometheus, wrong, {})} == wrong.keys()


def test_prometheus_serves_the_console_page_and_the_runbooks(prometheus: Prometheus) -> None:
    prometheus.wait_for("ancestral_model_info")
    # A scrape that a busy machine was too slow for leaves the page without its series until the next one.
    until(lambda: "<td>tally</td>" in prometheus.page("consoles/ancestral.html")[0])
    page, kind = prometheus.page("consoles/ancestral.html")
    assert kind.startswith("text/html")
    assert "{{" not in page
    runbook, kind = prometheus.page("consoles/runbooks/AncestralDown.md")
    assert runbook == (DEPLOY / "runbooks" / "AncestralDown.md").read_text()
    assert kind.startswith("text/plain")


def test_a_browser_draws_the_console_page(prometheus: Prometheus) -> None:
    prometheus.wait_for('up{job="ancestral"} == 1')
    prometheus.wait_for("rate(process_cpu_seconds_total[1m])")  # of two scrapes
    address = f"{prometheus.url}/consoles/ancestral.html"
    with chromium() as browser, opened(browser, address, width=1400, height=1000) as page:
        panels = page.locator(".panel")
        expect(panels.filter(has_text="Servers that answer").locator(".big")).to_have_text("100 %")
        expect(panels.filter(has_text="Model versions that serve").locator(".big")).to_have_text("1")
        expect(page.locator("svg polyline").first).to_be_attached()
        # Each panel shows its figure, its lines, or that it has none; and no error.
        expect(panels.locator("> div:last-child:empty")).to_have_count(0)
        expect(page.locator("main .panel > div > .red:not(.big)")).to_have_count(0)


# ---- Alertmanager


def routed(tool: Callable[[str], Path], *labels: str) -> str:
    """The receiver of an alert with these labels, by Alertmanager's own tool."""
    command: list[str | Path] = [tool("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}", *labels]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=True).stdout.strip()


def test_alertmanager_accepts_its_configuration_and_routes_by_severity(
    tool: Callable[[str], Path], run_tool: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert "SUCCESS" in run_tool("amtool", "check-config", ALERTMANAGER).stdout
    assert routed(tool, "alertname=AncestralDown", "severity=page") == "page"
    assert routed(tool, "alertname=AncestralSlowDrain", "severity=ticket") == "ticket"


def test_an_alert_goes_all_the_way_to_whom_it_concerns(tool: Callable[[str], Path], tmp_path: Path) -> None:
    """A server that is not there, a real Prometheus, a real Alertmanager, and a webhook."""
    posted: list[tuple[str, dict[str, Any]]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posted.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    webhook = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    config = yaml.safe_load(ALERTMANAGER.read_text())
    for receiver in config["receivers"]:
        address = f"http://127.0.0.1:{webhook.server_port}/{receiver['name']}"
        receiver["webhook_configs"] = [{"url": address}]
    for route in (config["route"], *config["route"]["routes"]):
        route["group_wait"] = "0s"
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    listen = free_address()
    with (tmp_path / "alertmanager.log").open("w") as log:
        alertmanager = subprocess.Popen(
            [
                tool("alertmanager"),
                f"--config.file={tmp_path / 'alertmanager.yml'}",
                f"--storage.path={tmp_path / 'alerts'}",
                f"--web.listen-address={listen}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    # The port was free a moment ago, and nobody listens there.
    target = free_address()
    (tmp_path / "prometheus").mkdir()
    prometheus = Prometheus(tool("prometheus"), tmp_path / "prometheus", target, alertmanager=listen)
    try:
        down: list[dict[str, Any]] = []

        def told() -> bool:
            # At first Prometheus does not even know of the target, and says so.
            alerts = [alert for path, body in posted if path == "/page" for alert in body["alerts"]]
            down[:] = [alert for alert in alerts if alert["labels"]["alertname"] == "AncestralDown"]
            return bool(down) or alertmanager.poll() is not None

        until(told)
        assert alertmanager.poll() is None, (tmp_path / "alertmanager.log").read_text()
        alert = down[0]
        assert alert["status"] == "firing"
        assert alert["labels"]["instance"] == target
        assert alert["annotations"]["summary"] == f"{target} does not answer Prometheus"
        # The link leads to the runbook.
        with urllib.request.urlopen(alert["annotations"]["runbook_url"], timeout=PATIENCE) as reply:
            assert reply.read().startswith(b"# AncestralDown\n")
        assert not [path for path, _ in posted if path == "/ticket"]
    finally:
        prometheus.close()
        alertmanager.terminate()
        alertmanager.wait(PATIENCE)
        webhook.shutdown()
        webhook.server_close()
