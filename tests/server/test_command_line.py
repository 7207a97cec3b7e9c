"""Flags, and what a container's environment may hold beside our own variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ancestral_server import cpus, processes
from ancestral_server.command_line import WrongUsage, read
from ancestral_server.settings import Settings

MODELS = ["--models", "m"]
# As Kubernetes tells a container of the Services ancestral-server and ancestral-server-metrics.
SERVICES = {
    "ANCESTRAL_SERVER_SERVICE_HOST": "10.0.0.7",
    "ANCESTRAL_SERVER_SERVICE_PORT": "8500",
    "ANCESTRAL_SERVER_SERVICE_PORT_GRPC": "8500",
    "ANCESTRAL_SERVER_PORT": "tcp://10.0.0.7:8500",
    "ANCESTRAL_SERVER_PORT_8500_TCP": "tcp://10.0.0.7:8500",
    "ANCESTRAL_SERVER_PORT_8500_TCP_PROTO": "tcp",
    "ANCESTRAL_SERVER_PORT_8500_TCP_PORT": "8500",
    "ANCESTRAL_SERVER_PORT_8500_TCP_ADDR": "10.0.0.7",
    "ANCESTRAL_SERVER_METRICS_SERVICE_HOST": "10.0.0.8",
    "ANCESTRAL_SERVER_METRICS_SERVICE_PORT": "9464",
    "ANCESTRAL_SERVER_METRICS_PORT": "tcp://10.0.0.8:9464",
    "ANCESTRAL_SERVER_METRICS_PORT_9464_TCP": "tcp://10.0.0.8:9464",
    "ANCESTRAL_SERVER_METRICS_PORT_9464_UDP_ADDR": "10.0.0.8",
}


def wrong(arguments: list[str], environment: dict[str, str]) -> list[str]:
    with pytest.raises(WrongUsage) as caught:
        read(arguments, environment)
    return str(caught.value).splitlines()


def test_each_setting_is_a_flag_and_a_variable_and_flags_go_first() -> None:
    settings, remarks = read(
        [*MODELS, "--max-batch=8", "--port", "1"],
        {"ANCESTRAL_SERVER_MAX_BATCH": "16", "ANCESTRAL_SERVER_SLOTS": " 4 ", "ancestral_server_host": "[::1]"},
    )
    assert settings == Settings(models=Path("m"), max_batch=8, port=1, slots=4, host="::1")
    assert remarks == []


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        (["--log-calls"], True),
        (["--log-calls", "true"], True),
        (["--log-calls=no"], False),
        (["--log-calls", "0"], False),
    ],
)
def test_a_flag_alone_is_a_yes(flags: list[str], value: bool) -> None:
    assert read([*flags, *MODELS], {})[0].log_calls is value
    assert read([*MODELS, *flags], {})[0].log_calls is value


def test_what_kubernetes_says_of_its_services_is_no_setting_and_no_typo() -> None:
    settings, remarks = read(MODELS, SERVICES)
    assert settings == Settings(models=Path("m"))
    assert [remark.partition("=")[0] for remark in remarks] == [
        "ANCESTRAL_SERVER_PORT",
        "ANCESTRAL_SERVER_METRICS_PORT",
    ]
    assert all("Kubernetes" in remark and "tcp://10.0.0." in remark for remark in remarks)


@pytest.mark.parametrize("field", [field for field in Settings.model_fields if field != "models"])
def test_any_setting_may_be_the_name_of_a_service_or_empty(field: str) -> None:
    name = f"ANCESTRAL_SERVER_{field.upper()}"
    settings, remarks = read(MODELS, {name: "tcp://10.0.0.7:8500"})
    assert settings == Settings(models=Path("m"))
    assert len(remarks) == 1
    assert remarks[0].startswith(f"{name}=tcp://10.0.0.7:8500 is ignored")
    for empty in ("", "  "):
        assert read(MODELS, {name: empty}) == (settings, [])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ANCESTRAL_SERVER_MAX_BACTH", "did you mean ANCESTRAL_SERVER_MAX_BATCH?"),
        ("ANCESTRAL_SERVER_PROT", "did you mean ANCESTRAL_SERVER_PORT?"),
        ("ANCESTRAL_SERVER_MODEL", "did you mean ANCESTRAL_SERVER_MODELS?"),
        ("ancestral_server_treads", "did you mean ANCESTRAL_SERVER_THREADS?"),
        ("ANCESTRAL_SERVER_MAX_QUEUED", "did you mean ANCESTRAL_SERVER_MAX_QUEUE"),
        ("ANCESTRAL_SERVER_XYZZY", "--help lists them all"),
    ],
)
def test_a_variable_of_our_prefix_that_is_none_is_named_with_the_nearest(name: str, says: str) -> None:
    settings, (remark,) = read(MODELS, {name: "3", "ANCESTRAL_ADDRESS": "a:1", "HOME": "/"})
    assert settings == Settings(models=Path("m"))
    assert remark.startswith(f"{name} is no setting")
    assert says in remark


@pytest.mark.parametrize(
    ("flags", "variables", "lines"),
    [
        ([], {"PORT": "http"}, ["ANCESTRAL_SERVER_PORT: Input should be a valid integer, unable to parse"]),
        (["--port", "http"], {"PORT": "1"}, ["--port: Input should be a valid integer"]),
        (["--port", "http"], {"PORT": "x"}, ["--port: Input should be a valid integer"]),
        (
            ["--port=1"],
            {"PORT": "http", "DEVICE": "tpu"},
            ["ANCESTRAL_SERVER_DEVICE: must be auto, cpu, cuda, cuda:N, several"],
        ),
        ([], {"PORT": "70000"}, ["ANCESTRAL_SERVER_PORT: Input should be less than or equal to 65535 (got '70000')"]),
        (["--host", "a:1"], {}, ["--host: must be an address or a name to listen on, without a port"]),
        ([], {"HOST": "a:1"}, ["ANCESTRAL_SERVER_HOST: must be an address or a name to listen on, without a port"]),
        (
            ["--device", "cuda:"],
            {},
            ["--device: must be auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or"],
        ),
        (
            ["--device", "cuda:-1"],
            {},
            ["--device: must be auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or"],
        ),
        (["--device", "cuda:0,1"], {}, ["--device: must be auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or"]),
        (["--device", "cpu,cuda:0"], {}, ["--device: must be auto, cpu, cuda, cuda:N, several as cuda:0,cuda:1, or"]),
        (["--device", "cuda:1,cuda:0,cuda:1"], {}, ["--device: names cuda:1 more than once (got"]),
        (["--kernels", "on"], {}, ["--kernels: Input should be 'auto' or 'off'"]),
        (["--prot", "1"], {}, ["--prot: there is no such flag; did you mean --port?"]),
        (["--max_batch=1"], {}, ["--max_batch: there is no such flag; did you mean --max-batch?"]),
        (["--port"], {}, ["--port: expected one argument"]),
        (["folder"], {}, ["folder: only flags are taken"]),
        (["--log-calls", "maybe"], {}, ["--log-calls: Input should be a valid boolean"]),
        (["--otlp-endpoint", "ftp://x"], {}, ["--otlp-endpoint: must be where a collector takes OTLP over gRPC"]),
        (["--trace-ratio=1.1"], {"LOG_RATIO": "nan"}, ["ANCESTRAL_SERVER_LOG_RATIO: Input", "--trace-ratio: Input"]),
        (["--port", "9464"], {}, ["--metrics-port: must be another port than --port (got 9464)"]),
        (["--port=1"], {"METRICS_PORT": "1"}, ["ANCESTRAL_SERVER_METRICS_PORT: must be another port than --port (got"]),
        (["--port=1", "--health-port=1"], {}, ["--health-port: must be another port than --port (got"]),
        (["--health-port=9464"], {}, ["--health-port: must be another port than --metrics-port (got"]),
        (
            ["--port=9466", "--processes=4"],
            {},
            ["--processes: needs the ports 9464 to 9467 for metrics, and --port is one of them (got"],
        ),
        (
            ["--metrics-port=65535"],
            {"PROCESSES": "2"},
            ["ANCESTRAL_SERVER_PROCESSES: needs the ports 65535 to 65536 for metrics, 65535 is the last: choose"],
        ),
        (["--threads=0", "--slots=x"], {}, ["--threads: Input should be greater", "--slots: Input should be a valid"]),
    ],
)
def test_what_is_wrong_is_named_as_it_was_given(flags: list[str], variables: dict[str, str], lines: list[str]) -> None:
    said = wrong([*flags, *MODELS], {f"ANCESTRAL_SERVER_{name}": value for name, value in variables.items()})
    assert len(said) == len(lines)
    assert all(map(str.startswith, said, lines)), said


@pytest.mark.parametrize(
    ("given", "device"),
    [
        ("cuda:1", "cuda:1"),
        ("cuda:all", "cuda:all"),
        ("cuda:0,cuda:2", "cuda:0,cuda:2"),
        (" cuda:3, cuda:0 ", "cuda:3,cuda:0"),
    ],
)
def test_several_devices_are_separated_by_commas(given: str, device: str) -> None:
    assert read([*MODELS, "--device", given], {})[0].device == device
    assert read(MODELS, {"ANCESTRAL_SERVER_DEVICE": given})[0].device == device


def test_the_folder_of_models_must_be_named() -> None:
    (line,) = wrong([], {"ANCESTRAL_SERVER_MODELS": ""})
    assert line == "--models: is required, or the variable ANCESTRAL_SERVER_MODELS"
    assert str(read([], {"ANCESTRAL_SERVER_MODELS": "m"})[0].models) == "m"


def test_help_shows_each_setting_its_unit_and_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown: Any = " ".join
    with pytest.raises(SystemExit) as end:
        read(["--help"], {"ANCESTRAL_SERVER_PORT": "http"})
    assert end.value.code == 0
    text = shown(capsys.readouterr().out.split())
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
    assert "--port PORT gRPC port" in text
    assert "--drain-seconds SECONDS" in text
    assert "--log-calls [true|false]" in text
    assert f"(default here: {cpus.usable_cpus()})" in text
    assert "factory" not in text
    assert "bool" not in text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--log-ratio=0.1"], ["--log-ratio does nothing without --log-calls"]),
        (["--log-ratio=0.1", "--log-calls"], []),
        (["--log-ratio=1"], []),
        (
            ["--trace-ratio=1", "--metrics-tls=false"],
            ["--metrics-tls does", "--trace-ratio does nothing without --otlp-"],
        ),
        (["--trace-ratio=1", "--otlp-endpoint=localhost"], []),
        (["--port=0", "--metrics-port=0", "--health-port=0", "--processes=4"], []),
    ],
)
def test_a_setting_that_does_nothing_without_another_is_told(flags: list[str], said: list[str]) -> None:
    _, remarks = read([*MODELS, *flags], {})
    assert len(remarks) == len(said)
    assert all(map(str.startswith, remarks, said)), remarks


def test_what_does_nothing_is_told_as_it_was_given() -> None:
    _, remarks = read(MODELS, {"ANCESTRAL_SERVER_LOG_RATIO": "0.5"})
    assert remarks == ["ANCESTRAL_SERVER_LOG_RATIO does nothing without --log-calls"]


def test_a_process_of_several_is_given_what_the_first_was_whatever_a_folder_is_called() -> None:
    asked = Settings(models=Path("--port"), log_calls=True, processes=2, metrics_port=0)
    _, _, _, *arguments = processes._command(asked, {"port": 7}, 1)
    given = asked.model_dump() | {"processes": 1, "share_port": True, "port": 7}
    assert read(arguments, {})[0].model_dump() == given | {"threads": max(1, asked.threads // 2)}
