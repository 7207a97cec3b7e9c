"""A session with Triton's own client, run by its own interpreter (.tools/triton): `tritonsession.py ADDRESS IN OUT`.

Reads `images` [N,4,3,1] from the file IN, asks the model `tally` everything, writes the answered arrays to OUT and
prints the rest as JSON.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def main(address: str, read: str, written: str) -> None:
    images = np.load(read)["images"]
    index = np.array([[7], [3], [1000]], np.int64)
    image_input, index_input = tensor("image", images, "UINT8"), tensor("index", index, "INT64")
    code = [triton.InferRequestedOutput("code")]
    arrays, said = {}, {}

    with triton.InferenceServerClient(address) as client:
        said["live"], said["ready"] = client.is_server_live(), client.is_server_ready()
        said["server"] = client.get_server_metadata(as_json=True)
        said["model_ready"] = [client.is_model_ready(name) for name in ("tally", "tally.encode", "nobody")]
        said["metadata"] = client.get_model_metadata("tally.sample", as_json=True)
        said["config"] = client.get_model_config("tally", as_json=True)
        reply = client.infer(
            "tally", [image_input], model_version="1", request_id="mine", priority=1, timeout=30_000_000
        )
        said["id"], said["version"] = reply.get_response().id, reply.get_response().model_version
        arrays["encode"] = reply.as_numpy("code")
        arrays["score"] = client.infer("tally.score", [image_input]).as_numpy("log_likelihood")
        reply = client.infer("tally.sample", [index_input], parameters={"seed": 5, "temperature": 1.0})
        said["seed"] = reply.get_response().parameters["seed"].int64_param
        arrays["sample"], arrays["likelihood"] = reply.as_numpy("image"), reply.as_numpy("log_likelihood")
        answers: queue.Queue[Any] = queue.Queue()
        client.async_infer("tally", [image_input], lambda result, error: answers.put((result, error)), outputs=code)
        result, error = answers.get(timeout=30)
        assert error is None, error
        arrays["async"] = result.as_numpy("code")
        said["errors"] = {}
        for case, model, inputs in (("unknown", "nobody", [image_input]), ("wrong", "tally.sample", [image_input])):
            try:
                client.infer(model, inputs)
            except triton.InferenceServerException as refused:
                said["errors"][case] = [refused.status(), refused.message()]
        said["statistics"] = client.get_inference_statistics("tally.encode", "1", as_json=True)

    async def ask_again() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            arrays["aio"] = (await client.infer("tally.encode", [image_input], outputs=code)).as_numpy("code")

    asyncio.run(ask_again())
    with triton.InferenceServerClient(address) as client:

        def states() -> list[Any]:
            models = client.get_model_repository_index(as_json=True)["models"]
            return [[model["name"], model["version"], model["state"]] for model in models]

        said["index"] = [states()]
        for change in (client.unload_model, client.load_model):
            change("tally")
            said["index"].append(states())
    np.savez(written, **arrays)
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
