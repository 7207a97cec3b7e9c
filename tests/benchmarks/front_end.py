"""What the server's front end costs: single-image Encode against a bare gRPC echo, streams against raw onnxruntime.

Server, echo and load generator are processes of their own. The echo (reference.py) has messages of the same size as
Encode's, and the server's event loop and gRPC settings, so it is the bound of any server written with the same library.
What is compared is timed in turn, round by round.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import grpc
import numpy as np

import reports

sys.path.insert(0, str(Path(__file__).parents[1]))

from ancestral.v1 import bundle_pb2, inference_service_pb2_grpc, tensor_pb2
from ancestral.v1 import inference_service_pb2 as pb
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.program import OneShotProgram
from ancestral_server.runtime.session import Device, Runtime
from closed_loop import finished, load
from inference import open_inference_service_pb2 as oip
from reference import ECHO, echo_server
from running import ServerProcess, heed_sigterm

HERE = Path(__file__)
CORES = len(os.sched_getaffinity(0))
MODEL = "mnist-vae"
ENCODE = "/ancestral.v1.InferenceService/Encode"
ENCODE_STREAM = "/ancestral.v1.InferenceService/EncodeStream"
INFER = "/inference.GRPCInferenceService/ModelInfer"
MESSAGE_IMAGES = 64


def images(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)


def encode_request(count: int) -> pb.EncodeRequest:
    pixels = images(count)
    tensor = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=pixels.shape, data=pixels.tobytes())
    return pb.EncodeRequest(model=MODEL, images=tensor)


def raw_images_per_second(bundle: Path, batch: int, seconds: float, device: Device) -> float:
    """Of onnxruntime alone, as the server opens it, on batches of this size."""
    read = read_bundle(bundle)
    role = next(role for role in read.manifest.roles if role.name == "encode")
    program = OneShotProgram(role, Runtime(device, CORES).open(read.graph(role)), read.manifest)
    feeds = {meaning: program.blank(meaning, batch) for meaning in program.inputs}
    feeds[bundle_pb2.MEANING_IMAGE] = images(batch)
    wanted = [bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_LOG_VARIANCE]
    program.run(feeds, wanted)
    runs, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        program.run(feeds, wanted)
        runs += 1
    return runs * batch / (time.perf_counter() - began)


def infer_request() -> oip.ModelInferRequest:
    """The same image by the Open Inference Protocol; the outputs that Encode gives."""
    pixels = images(1)
    request = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[pixels.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    for name in ("mean", "log_variance"):
        request.outputs.add(name=name)
    return request


def single_calls(
    server: ServerProcess,
    bundle: Path,
    folder: Path,
    concurrencies: list[int],
    seconds: float,
    rounds: int,
    device: Device,
) -> list[dict[str, Any]]:
    """Encode, and ModelInfer, against an echo of messages as large as Encode's, at each number of calls in flight."""
    requests = {ENCODE: encode_request(1), INFER: infer_request()}
    files = {method: folder / method.replace("/", ".") for method in requests}
    for method, request in requests.items():
        files[method].write_bytes(request.SerializeToString())
    with grpc.insecure_channel(server.address) as channel:
        reply = inference_service_pb2_grpc.InferenceServiceStub(channel).Encode(encode_request(1)).ByteSize()
    rows = []
    with echo_server(reply) as bare:
        for concurrency in concurrencies:
            echoes, loads = _in_turn(server, bare, files, concurrency, seconds, rounds)
            encode, infer = (
                {figure: median(each[figure] for each in loads[method]) for figure in loads[method][0]}
                for method in (ENCODE, INFER)
            )
            rows.append(
                {
                    "concurrency": concurrency,
                    "echo_rate": median(echoes),
                    "echoes": echoes,
                    "encode_rate": encode["rate"],
                    "ratio": encode["ratio"],
                    "ratios": [each["ratio"] for each in loads[ENCODE]],
                    "infer_rate": infer["rate"],
                    "infer_ratio": infer["ratio"],
                    "p50_ms": encode["p50_ms"],
                    "p99_ms": encode["p99_ms"],
                    "mean_batch": encode["batch"],
                    "server_cpu_us_per_call": encode["cpu_us"],
                    "raw_images_per_second": raw_images_per_second(bundle, max(1, round(encode["batch"])), 0.5, device),
                }
            )
    return rows


def _in_turn(
    server: ServerProcess, bare: str, files: dict[str, Path], concurrency: int, seconds: float, rounds: int
) -> tuple[list[float], dict[str, list[dict[str, float]]]]:
    """Rates of the echo, calls/s, and by method what was measured of each load between two of them.

    A load is held against the mean of the echo just before it and the one just after: shared machines change their
    speed within seconds.
    """

    def echo() -> float:
        return load(bare, ECHO, concurrency, seconds, files[ENCODE])["rate"]

    echoes, loads = [echo()], {method: list[dict[str, float]]() for method in files}
    for _ in range(rounds):
        for method, file in files.items():
            before, cpu = _batches(server), _cpu_seconds(server)
            measured = load(server.address, method, concurrency, seconds, file)
            runs, answered = (now - then for now, then in zip(_batches(server), before, strict=True))
            measured["batch"] = answered / max(runs, 1)
            measured["cpu_us"] = (_cpu_seconds(server) - cpu) / max(answered, 1) * 1e6
            echoes.append(echo())
            measured["ratio"] = measured["rate"] / fmean(echoes[-2:])
            loads[method].append(measured)
    return echoes, loads


def bulk(
    server: ServerProcess, bundle: Path, folder: Path, seconds: float, rounds: int, device: Device
) -> dict[str, Any]:
    """EncodeStream with 64 images per message against onnxruntime alone on batches of as many."""
    message = folder / "message"
    message.write_bytes(pb.EncodeStreamRequest(encode=encode_request(MESSAGE_IMAGES)).SerializeToString())
    pairs = []
    for _ in range(rounds):
        raw = raw_images_per_second(bundle, MESSAGE_IMAGES, seconds, device)
        rate = finished("stream", server.address, ENCODE_STREAM, str(seconds), str(message))["rate"] * MESSAGE_IMAGES
        pairs.append((raw, rate))
    return {
        "raw_images_per_second": median(raw for raw, _ in pairs),
        "stream_images_per_second": median(rate for _, rate in pairs),
        "ratio": median(rate / raw for raw, rate in pairs),
        "ratios": [rate / raw for raw, rate in pairs],
    }


def _batches(server: ServerProcess) -> tuple[float, float]:
    """Runs of the encoder so far, and images in them."""
    runs, images = (
        server.metric(f"ancestral_batch_size_{kind}", model=MODEL, role="encode") for kind in ("count", "sum")
    )
    return runs, images


def _cpu_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def untrained_bundle(models: Path) -> Path:
    from rig import untrained  # needs PyTorch

    return untrained(MODEL, models)[1]


def measure(
    bundle: Path, folder: Path, concurrencies: list[int], seconds: float, rounds: int, device: Device
) -> dict[str, Any]:
    """The whole report on an untrained bundle of MODEL; requests are written to `folder`."""
    with ServerProcess(bundle.parents[1], "--device", device) as server:
        return {
            "cores": CORES,
            "device": device,
            "single_calls": single_calls(server, bundle, folder, concurrencies, seconds, rounds, device),
            "bulk": bulk(server, bundle, folder, seconds, rounds, device),
        }


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"# The front end on {report['cores']} cores, the model on {report['device']}",
        "",
        "Single-image `Encode` of an untrained `mnist-vae`, closed loop, against a bare gRPC echo with messages of the",
        "same size just before and just after it; medians over rounds.",
        "",
        "| in flight | echo, calls/s | Encode, calls/s | ratio | ModelInfer, calls/s | ratio | p50, ms | p99, ms "
        "| mean batch | server CPU, µs/call | raw onnxruntime at that batch, images/s |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {row['concurrency']} | {row['echo_rate']:.0f} | {row['encode_rate']:.0f} | {row['ratio']:.2f} "
        f"| {row['infer_rate']:.0f} | {row['infer_ratio']:.2f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} "
        f"| {row['mean_batch']:.1f} | {row['server_cpu_us_per_call']:.0f} | {row['raw_images_per_second']:.0f} |"
        for row in report["single_calls"]
    )
    lines += [
        "",
        f"Latencies, batches and CPU are Encode's. `EncodeStream` with {MESSAGE_IMAGES} images per message: "
        f"{report['bulk']['stream_images_per_second']:.0f} images/s,",
        f"{report['bulk']['ratio']:.2f} of the {report['bulk']['raw_images_per_second']:.0f} of onnxruntime alone.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    heed_sigterm()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64], help="calls in flight")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=15, help="how often what is compared takes turns")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the server computes")
    parser.add_argument("--bundle", type=Path, help=f"of {MODEL}, where there is no PyTorch to make an untrained one")
    parser.add_argument("--out", type=Path, default=HERE.parent / "front_end", help="report without suffix")
    options = parser.parse_args()
    reports.prepare(parser, options.out)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle or untrained_bundle(Path(temporary) / "models")
        report = measure(bundle, Path(temporary), options.concurrency, options.seconds, options.rounds, options.device)
    text = markdown(report)
    print(text)
    reports.write(options.out, text, report)


if __name__ == "__main__":
    main()
