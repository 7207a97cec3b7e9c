"""An HTTP service before a model: a picture comes in, its encoding goes out, in time or with a reason.

    uvicorn --app-dir clients/examples service:app --port 8001
    curl --data-binary @digit.png localhost:8001/features

A caller says how long it waits (`?timeout_ms=`), and that is the deadline of the call to the server, its second
attempts included: nobody works for somebody who is gone. Where the server fails again and again the circuit opens, and
callers get a 503 at once instead of waiting for what will not come; after some seconds one call tries whether it is
back. It needs `pip install fastapi uvicorn` beside the client.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image

from ancestral_client import AncestralError, AsyncClient, DeadlineExceeded, InvalidArgument, Overloaded, Unavailable

MODEL = os.environ.get("MODEL", "digits-vae")
MOST_BYTES = 1 << 20  # of a picture
# An encoding takes milliseconds: whoever waits this long for none has met a fault, which the circuit may count.
SHORTEST_MS, LONGEST_MS = 200, 30_000


class Circuit:
    """Closed: calls go through. After `failures` in a row it is open for `seconds`; then one call tries."""

    def __init__(self, failures: int = 5, seconds: float = 5.0, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._now = failures, seconds, now
        self._failures, self._open_until = 0, 0.0

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Goes around a call; HTTPException 503 where the circuit is open."""
        if self._failures >= self._most:
            waits = self._open_until - self._now()
            if waits > 0:
                raise HTTPException(503, "the model server does not answer", {"Retry-After": str(math.ceil(waits))})
            self._open_until = self._now() + self._seconds  # others wait for what becomes of this call
        try:
            yield
        except (DeadlineExceeded, Overloaded, Unavailable):
            self._failures += 1
            self._open_until = self._now() + self._seconds
            raise
        except (AncestralError, HTTPException):  # it answered, and something else is wrong: the picture, for one
            self._failures = 0
            raise
        self._failures = 0


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests, of the event loop that answers them."""
    async with AsyncClient(os.environ.get("ANCESTRAL_ADDRESS", "localhost:8500")) as app.state.client:
        app.state.circuit = Circuit()
        yield


app = FastAPI(title="Encodings", lifespan=connected)


@app.post("/features")
async def features(
    request: Request, timeout_ms: Annotated[int, Query(ge=SHORTEST_MS, le=LONGEST_MS)] = 1000
) -> dict[str, Any]:
    """The encoding of the picture that is the body."""
    client: AsyncClient = request.app.state.client
    body = await read(request)
    async with request.app.state.circuit.guard():
        deadline = time.monotonic() + timeout_ms / 1000  # of both calls together
        model = await client.model(MODEL, timeout=timeout_ms / 1000)
        pixels = picture(body, model.image_shape)
        left = max(0.001, deadline - time.monotonic())
        found = await client.encode(MODEL, pixels, version=model.version, timeout=left)
    return {"model": found.info.model, "version": found.info.version, "features": found.mean[0].tolist()}


async def read(request: Request) -> bytes:
    """The body, as long as it is no longer than a picture."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, f"a picture has at most {MOST_BYTES} bytes")
    return body


def picture(body: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """[H,W,C] of a picture's file; its size is looked at before its pixels are unpacked."""
    height, width, channels = shape
    try:
        with Image.open(BytesIO(body)) as found:
            if found.size != (width, height):
                raise HTTPException(422, f"the picture is {found.width}×{found.height}; {MODEL} takes {width}×{height}")
            pixels = np.asarray(found.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for what is no picture, or a broken one
        raise HTTPException(422, f"the body is no picture: {error}") from error
    return pixels.reshape(shape)


@app.exception_handler(AncestralError)
async def failed(request: Request, error: AncestralError) -> JSONResponse:
    """What goes wrong behind this service, as HTTP says it."""
    headers = {}
    match error:
        case InvalidArgument():
            status = 422
        case DeadlineExceeded():
            status = 504
        case Overloaded() | Unavailable():
            status = 503
            headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", None) or 1))
        case _:
            status = 502
    return JSONResponse({"detail": str(error)}, status, headers)
