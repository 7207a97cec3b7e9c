"""The manifests for Kubernetes, as kubectl's kustomize builds them: valid, and in agreement with the server and others.

There is no cluster here. What Kubernetes itself defines is validated against its own schemas, unknown fields included;
of what operators define (Prometheus', KEDA, KServe) no registry has a schema, and only names and numbers are compared.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ancestral_server import command_line
from ancestral_server.settings import Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VALIDATE = ROOT / ".tools" / "kubernetes" / "bin" / "kubernetes-validate"
OVERLAYS = ("cpu", "gpu")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# Of operators that a cluster may have.
OPERATORS = ("monitoring.coreos.com/", "keda.sh/", "serving.kserve.io/")

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]
Manifests = dict[str, dict[str, Any]]


def built(run_tool: RunTool, overlay: str) -> Manifests:
    """What `kubectl apply -k` would send, by kind."""
    documents = list(yaml.safe_load_all(run_tool("kubectl", "kustomize", KUBERNETES / overlay).stdout))
    manifests = {document["kind"]: document for document in documents}
    assert len(manifests) == len(documents)
    return manifests


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(run_tool: RunTool, request: pytest.FixtureRequest) -> Manifests:
    return built(run_tool, str(request.param))


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [VALIDATE, "--strict", "-k", "1.35", path]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def test_kubernetes_would_take_them(manifests: Manifests, tmp_path: Path) -> None:
    own = [each for each in manifests.values() if not each["apiVersion"].startswith(OPERATORS)]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump_all(own))
    said = validate(tmp_path / "own.yaml")
    assert said.returncode == 0, said.stdout + said.stderr
    # It would see a misspelt field.
    manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(manifests["Deployment"]))
    del manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]["readinesProbe"]
    said = validate(tmp_path / "wrong.yaml")
    assert said.returncode == 1
    assert "readinesProbe" in said.stdout + said.stderr


def container(manifests: Manifests) -> dict[str, Any]:
    (found,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings(arguments: list[str]) -> Settings:
    return command_line.read(arguments, {})[0]


def test_the_server_understands_its_flags_and_listens_where_it_is_asked(manifests: Manifests) -> None:
    given, ports = settings(container(manifests)["args"]), {}
    for port in container(manifests)["ports"]:
        ports[port["name"]] = port["containerPort"]
    assert ports == {"grpc": given.port, "metrics": given.metrics_port}
    assert given.host == "0.0.0.0"
    for probe in PROBES:
        assert container(manifests)[probe]["grpc"]["port"] == given.port
    # That of a model, since a server without models takes calls too.
    assert container(manifests)["readinessProbe"]["grpc"]["service"]
    mounts = {mount["name"]: mount for mount in container(manifests)["volumeMounts"]}
    assert mounts["models"] == {"name": "models", "mountPath": str(given.models), "readOnly": True}
    assert {(port["name"], port["port"]) for port in manifests["Service"]["spec"]["ports"]} == set(ports.items())


def test_a_pod_is_given_the_time_to_end(manifests: Manifests) -> None:
    pod, given = manifests["Deployment"]["spec"]["template"]["spec"], settings(container(manifests)["args"])
    before = container(manifests)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # The server's own words (deploy/README.md): a little longer than both together, and 2 s more.
    assert pod["terminationGracePeriodSeconds"] >= before + given.drain_seconds + 2


def test_selectors_find_the_pods_and_no_more(manifests: Manifests) -> None:
    pod = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    spec = {kind: manifests[kind]["spec"] for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy")}
    for selector in (
        spec["Deployment"]["selector"]["matchLabels"],
        spec["Service"]["selector"],
        spec["PodDisruptionBudget"]["selector"]["matchLabels"],
        spec["NetworkPolicy"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= pod.items()
        assert selector["app.kubernetes.io/component"] == "server"
    clients = spec["NetworkPolicy"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert clients == {"ancestral-client": "true"}
    assert spec["Service"]["clusterIP"] == "None", "a client has to see every replica"


def test_it_runs_as_nobody_and_writes_nothing(manifests: Manifests) -> None:
    pod, own = manifests["Deployment"]["spec"]["template"]["spec"], container(manifests)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_prometheus_finds_the_servers_under_the_name_that_rules_have(manifests: Manifests) -> None:
    monitor = manifests["ServiceMonitor"]["spec"]
    labels = manifests["Service"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "ancestral"
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} == {"metrics"}
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert manifests["PrometheusRule"]["spec"] == rules


def test_with_tls_and_callers_the_server_reads_what_is_mounted_and_probes_ask_where_they_may(
    run_tool: RunTool, tmp_path: Path
) -> None:
    shutil.copytree(KUBERNETES, tmp_path, dirs_exist_ok=True)
    overlay = tmp_path / "cpu" / "kustomization.yaml"
    before = overlay.read_text()
    overlay.write_text(before.replace("  # TLS, and who may call: ../tls", "  - ../tls"))
    assert overlay.read_text() != before
    found = {
        each["kind"]: each for each in yaml.safe_load_all(run_tool("kubectl", "kustomize", tmp_path / "cpu").stdout)
    }
    given, pod = settings(container(found)["args"]), found["Deployment"]["spec"]["template"]["spec"]
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {mount["mountPath"] for mount in container(found)["volumeMounts"] if mount["name"] in secrets}
    assert {str(path.parent) for path in (given.tls_cert, given.tls_key, given.callers) if path} == mounted
    assert {secret["defaultMode"] for secret in secrets.values()} == {0o400}
    assert {container(found)[probe]["grpc"]["port"] for probe in PROBES} == {given.health_port}
    # The metrics' port speaks TLS as well, and asks who scrapes.
    assert given.metrics_tls
    (endpoint,) = found["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == secrets["tls"]["secretName"]
    assert endpoint["tlsConfig"]["serverName"] == found["Service"]["metadata"]["name"]
    assert endpoint["authorization"]["credentials"]["name"] in (KUBERNETES / "tls" / "kustomization.yaml").read_text()
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump_all([each for each in found.values() if not each["apiVersion"].startswith(OPERATORS)])
    )
    said = validate(tmp_path / "own.yaml")
    assert said.returncode == 0, said.stdout + said.stderr


def test_autoscalers_are_of_the_deployment(run_tool: RunTool) -> None:
    deployment = built(run_tool, "cpu")["Deployment"]
    plain = built(run_tool, "cpu")["HorizontalPodAutoscaler"]["spec"]
    queued = built(run_tool, "gpu")["ScaledObject"]["spec"]
    assert {plain["scaleTargetRef"]["name"], queued["scaleTargetRef"]["name"]} == {deployment["metadata"]["name"]}
    assert "replicas" not in deployment["spec"], "applying the manifests would undo what the autoscaler did"
    # A replica is worth adding for a full batch that waits.
    assert queued["triggers"][0]["metadata"]["threshold"] == str(Settings.model_fields["max_batch"].default)


def test_the_gpu_overlay_differs_in_the_device(run_tool: RunTool) -> None:
    cpu, gpu = (container(built(run_tool, overlay)) for overlay in OVERLAYS)
    assert gpu["args"] == [*cpu["args"], "--device=cuda"]
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_kserve_runs_the_same_server(run_tool: RunTool) -> None:
    manifests = built(run_tool, "kserve")
    runtime, service = manifests["ServingRuntime"]["spec"], manifests["InferenceService"]["spec"]["predictor"]
    (server,) = runtime["containers"]
    given = settings(server["args"])
    # KServe mounts models there, and takes the first port, by its name, for the Service's.
    assert str(given.models) == "/mnt/models"
    assert server["ports"][0] == {"name": "grpc", "containerPort": given.port, "protocol": "TCP"}
    assert server["readinessProbe"]["grpc"]["port"] == given.port
    assert runtime["annotations"]["prometheus.kserve.io/port"] == str(given.metrics_port)
    assert service["model"]["runtime"] == manifests["ServingRuntime"]["metadata"]["name"]
    assert service["model"]["modelFormat"]["name"] in {each["name"] for each in runtime["supportedModelFormats"]}
    assert service["model"]["protocolVersion"] in runtime["protocolVersions"]
    # Nobody says otherwise, so a pod has Kubernetes' own 30 s to end, and no list of users to find the image's in.
    assert given.drain_seconds + 2 <= 30
    assert server["securityContext"]["runAsNonRoot"]
    assert server["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in server["volumeMounts"]} == {"/tmp"}
