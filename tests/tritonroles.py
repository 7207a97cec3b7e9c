"""Every role of a server asked by Triton's own client, run by its own interpreter (.tools/triton).

`tritonroles.py ADDRESS` makes the inputs of each from its metadata alone, and prints as JSON what came of them, by
NAME.ROLE: once, in a stream, and in a stream of the client for asyncio.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import triton_to_np_dtype

ROWS = 3
# What no metadata tells: that a sampler of classes needs one.
LABELLED = ("labelled.sample", "shells.sample")


def inputs_of(metadata: dict[str, Any]) -> list[triton.InferInput]:
    made = []
    for tensor in metadata["inputs"]:
        shape = [ROWS, *map(int, tensor["shape"][1:])]
        one = triton.InferInput(tensor["name"], shape, tensor["datatype"])
        made.append(one.set_data_from_numpy(np.zeros(shape, triton_to_np_dtype(tensor["datatype"]))))
    return made


def parameters_of(name: str) -> dict[str, int] | None:
    if not name.endswith(".sample"):
        return None
    return {"seed": 5, "label": 1} if name in LABELLED else {"seed": 5}


def told(results: list[triton.InferResult]) -> dict[str, Any]:
    """Of the results of one request: each output's shape and its elements, in the order of the rows."""
    replies = sorted((result.get_response().parameters["row"].int64_param, i) for i, result in enumerate(results))
    ordered = [results[i] for _, i in replies]
    arrays = {
        output.name: np.concatenate([result.as_numpy(output.name) for result in ordered])
        for output in ordered[0].get_response().outputs
    }
    return {name: [list(array.shape), array.tolist()] for name, array in arrays.items()}


def final(result: triton.InferResult) -> bool:
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def main(address: str) -> None:
    said: dict[str, Any] = {}
    with triton.InferenceServerClient(address) as client:
        statistics = client.get_inference_statistics(as_json=True)["model_stats"]
        names = sorted({entry["name"] for entry in statistics})
        asked = {name: inputs_of(client.get_model_metadata(name, as_json=True)) for name in names}
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name, inputs in asked.items():
            parameters = parameters_of(name)
            said[name] = {"once": told([client.infer(name, inputs, parameters=parameters)])}
            client.async_stream_infer(name, inputs, request_id=name, parameters=parameters)
        streamed: dict[str, list[Any]] = {name: [] for name in names}
        left = len(names)
        while left:
            result, error = answers.get(timeout=300)
            assert error is None, error
            streamed[result.get_response().id].append(result)
            left -= final(result)
        # One that is wrong ends nothing.
        client.async_stream_infer("nobody", inputs, request_id="lost")
        client.async_stream_infer(names[0], asked[names[0]], request_id="after")
        (_, error), (after, _) = (answers.get(timeout=300) for _ in range(2))
        client.stop_stream()
        for name in names:
            said[name]["stream"] = told(streamed[name])

    async def ask_again() -> None:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for name, inputs in asked.items():
                yield {"model_name": name, "inputs": inputs, "request_id": name, "parameters": parameters_of(name)}

        found: dict[str, list[Any]] = {name: [] for name in names}
        async with triton_aio.InferenceServerClient(address) as client:
            async for result, error in client.stream_infer(requests()):
                assert error is None, error
                found[result.get_response().id].append(result)
        for name in names:
            said[name]["aio"] = told(found[name])

    asyncio.run(ask_again())
    json.dump({"roles": said, "error": error.message(), "after": after.get_response().id}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
