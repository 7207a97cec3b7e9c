"""ModelInfer by NVIDIA's perf_analyzer, whose client in C++ leaves the cost of a server bare.

`make perf-analyzer` fetches the load generator. What the server is held against, see reference.py: a bare server of
gRPC for Python that answers every call with a recorded reply, which bounds all servers written with that library; the
same when it runs the model once for each call, with onnxruntime alone; and the bare echo of front_end.py by that
bench's own load generator. In turn, round by round.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from google.protobuf.message import Message

sys.path.insert(0, str(Path(__file__).parents[1]))

import front_end
import reports
from closed_loop import load
from front_end import MODEL, encode_request
from inference import open_inference_service_pb2 as oip
from reference import ECHO, OPEN_INFERENCE, canned_server, echo_server
from rig import CORES, untrained
from running import ServerProcess, heed_sigterm

HERE = Path(__file__)
TOOL = HERE.parents[2] / ".tools" / "bin" / "perf_analyzer"
NAME = f"{MODEL}.encode"
# What perf_analyzer asks, and the canned server answers.
ASKED: dict[str, Message] = {
    "ServerLive": oip.ServerLiveRequest(),
    "ServerReady": oip.ServerReadyRequest(),
    "ServerMetadata": oip.ServerMetadataRequest(),
    "ModelReady": oip.ModelReadyRequest(name=NAME),
    "ModelMetadata": oip.ModelMetadataRequest(name=NAME),
    "ModelConfig": oip.ModelConfigRequest(name=NAME),
    "ModelStatistics": oip.ModelStatisticsRequest(name=NAME),
}


def infer_request() -> oip.ModelInferRequest:
    """As perf_analyzer makes it: all outputs that there are, an encoder's draw among them."""
    request = front_end.infer_request()
    request.model_name, request.id = NAME, "1"
    request.outputs.add(name="latent")
    return request


def record(address: str, folder: Path) -> None:
    """Write a server's replies to all that perf_analyzer asks, a file for each method."""
    with grpc.insecure_channel(address) as channel:
        for method, request in (*ASKED.items(), ("ModelInfer", infer_request())):
            call: Any = channel.unary_unary(f"/{OPEN_INFERENCE}/{method}")
            (folder / method).write_bytes(call(request.SerializeToString(), timeout=60))


def measure(address: str, concurrency: int) -> float:
    """Inferences/s by perf_analyzer: the mean of three windows of a second, whatever their spread."""
    command = [str(TOOL), "-i", "grpc", "-u", address, "-m", NAME, "--concurrency-range", str(concurrency)]
    command += ["-p", "1000", "-s", "999", "-r", "10", *(["--max-threads", "64"] if concurrency > 16 else [])]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return throughput(run.stdout + run.stderr)


def throughput(output: str) -> float:
    """What perf_analyzer says; RuntimeError with its words if there is nothing."""
    found = re.search(r"^\s*Throughput: ([\d.]+) infer/sec", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"perf_analyzer measured nothing:\n{output}")
    return float(found[1])


def compare(concurrencies: list[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    _, bundle = untrained(MODEL, folder / "models")
    replies, request = folder / "replies", folder / "request"
    replies.mkdir()
    request.write_bytes(encode_request(1).SerializeToString())
    rows = []
    with ServerProcess(folder / "models") as server:
        record(server.address, replies)
        size = len((replies / "ModelInfer").read_bytes())
        with (
            echo_server(size) as echo,
            canned_server(replies) as bare,
            canned_server(replies, bundle) as model,
        ):
            addresses = {"canned": bare, "canned_model": model, "server": server.address}
            for concurrency in concurrencies:
                rates: list[dict[str, float]] = []
                for _ in range(rounds):
                    measured = {"echo": load(echo, ECHO, concurrency, 1.0, request)["rate"]}
                    rates.append(measured | {name: measure(at, concurrency) for name, at in addresses.items()})
                rows.append(
                    {"concurrency": concurrency}
                    | {name: median(each[name] for each in rates) for name in rates[0]}
                    | {
                        f"of_{bound}": median(each["server"] / each[bound] for each in rates)
                        for bound in ("echo", "canned", "canned_model")
                    }
                )
    return rows


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"# ModelInfer by perf_analyzer on {report['cores']} cores",
        "",
        f"Single images to `{NAME}`, untrained, all its outputs asked for; calls/s, medians over rounds in turn.",
        "Canned: a bare server of gRPC for Python that answers with recorded replies, by itself and when it runs the",
        "model once for each call. Echo: that of [front_end.md](front_end.md), by its own load generator.",
        "",
        "| in flight | echo | canned | canned + model | server | of echo | of canned | of canned + model |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {row['concurrency']} | {row['echo']:.0f} | {row['canned']:.0f} | {row['canned_model']:.0f} "
        f"| {row['server']:.0f} | {row['of_echo']:.2f} | {row['of_canned']:.2f} | {row['of_canned_model']:.2f} |"
        for row in report["rows"]
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64], help="calls in flight")
    parser.add_argument("--rounds", type=int, default=4, help="how often what is compared takes turns")
    parser.add_argument("--out", type=Path, default=HERE.parent / "perf_analyzer", help="report without suffix")
    options = parser.parse_args()
    if not TOOL.exists():
        parser.error(f"there is no {TOOL}; `make perf-analyzer` fetches it")
    reports.prepare(parser, options.out)
    with tempfile.TemporaryDirectory() as temporary:
        report = {"cores": CORES, "rows": compare(options.concurrency, options.rounds, Path(temporary))}
    text = markdown(report)
    print(text)
    reports.write(options.out, text, report)


if __name__ == "__main__":
    main()
