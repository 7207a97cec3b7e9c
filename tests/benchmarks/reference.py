"""Bare servers of gRPC for Python that the server is held against: with its event loop and its gRPC settings, without
its code. So what they are faster by is what our code costs.

    python reference.py echo BYTES                  a server that answers every call with so many bytes
    python reference.py canned FOLDER [BUNDLE]      one of recorded replies, which may run a model besides

Both print their port. What else the server tells gRPC bounds sizes, pings and waiting calls, and is on no call's path.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

ECHO = "/bench.Echo/Echo"
SETTINGS = "/bench.Echo/Settings"
OPEN_INFERENCE = "inference.GRPCInferenceService"
Answer = Callable[[bytes, Any], Awaitable[bytes]]


def always(reply: bytes) -> Answer:
    async def answer(request: bytes, context: Any) -> bytes:
        return reply

    return answer


async def settings(request: bytes, context: Any) -> bytes:
    """What the server itself runs with: its event loop and what it sets of gRPC, in words."""
    return f"{type(asyncio.get_running_loop()).__module__}, {os.environ['GRPC_EXPERIMENTS']}".encode()


def canned(folder: Path, bundle: Path | None) -> dict[str, Answer]:
    """Answers with what was recorded, once a run of the bundle's encoder is over where one is given."""
    from inference import open_inference_service_pb2 as oip

    run = None if bundle is None else runner(bundle)
    replies = {f"/{OPEN_INFERENCE}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    calls = 0

    async def infer(request: bytes, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        if run is not None:
            run()
        return replies[f"/{OPEN_INFERENCE}/ModelInfer"]

    async def statistics(request: bytes, context: Any) -> bytes:
        # perf_analyzer stops where these stand still.
        reply = oip.ModelStatisticsResponse.FromString(replies[f"/{OPEN_INFERENCE}/ModelStatistics"])
        for model in reply.model_stats:
            model.inference_count = model.execution_count = model.last_inference = calls
            for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
                duration = getattr(model.inference_stats, stage)
                duration.count, duration.ns = calls, 1000 * calls
        return reply.SerializeToString()

    answers = {path: always(reply) for path, reply in replies.items()}
    return answers | {f"/{OPEN_INFERENCE}/ModelInfer": infer, f"/{OPEN_INFERENCE}/ModelStatistics": statistics}


def runner(bundle: Path) -> Callable[[], None]:
    """One run of the whole encoder on one image and one thread, as onnxruntime does it."""
    from ancestral_server.runtime.bundle import read_bundle
    from ancestral_server.runtime.program import OneShotProgram
    from ancestral_server.runtime.session import Runtime

    read = read_bundle(bundle)
    role = next(role for role in read.manifest.roles if role.name == "encode")
    program = OneShotProgram(role, Runtime("cpu", 1).open(read.graph(role), on_caller=True), read.manifest)
    feeds, wanted = {meaning: program.blank(meaning, 1) for meaning in program.inputs}, list(program.outputs)

    def run() -> None:
        program.run(feeds, wanted)

    run()
    return run


async def serve(answers: Mapping[str, Answer]) -> None:
    """Answer calls by their paths until the process is ended; prints the port."""
    import grpc

    class Handlers(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
            answer: Any = answers.get(handler_call_details.method)
            return answer and grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def listening(*arguments: str) -> Iterator[str]:
    """The address of a reference in a process of its own, which ends with the block."""
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def echo_server(size: int) -> AbstractContextManager[str]:
    return listening("echo", str(size))


def canned_server(replies: Path, bundle: Path | None = None) -> AbstractContextManager[str]:
    return listening("canned", str(replies), *([] if bundle is None else [str(bundle)]))


def main() -> None:
    # The server's package tells gRPC what it reads when it is imported: so this is first, and nothing above imports it.
    from ancestral_server import cli

    match sys.argv[1:]:
        case ["echo", size]:
            answers: Mapping[str, Answer] = {ECHO: always(bytes(int(size))), SETTINGS: settings}
        case ["canned", folder, *bundle]:
            answers = canned(Path(folder), Path(bundle[0]) if bundle else None)
        case _:
            sys.exit(__doc__)
    with asyncio.Runner(loop_factory=cli.event_loop) as runner:
        runner.run(serve(answers))


if __name__ == "__main__":
    main()
