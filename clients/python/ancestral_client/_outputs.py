"""What commands say and write: results, how it went, and what went wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ancestral.text import shown
from ancestral_client import _progress, errors
from ancestral_client._joining import Joining
from ancestral_client.bulk import BulkStream
from ancestral_client.results import Decoding, Encoding, Info, Model, Samples, Scores
from ancestral_client.targets import Target

_Result = TypeVar("_Result", Encoding, Scores)


def told(error: Exception) -> str:
    """The message, and what helps after it: when to try again, and the id to look for in the server's log. One line."""
    return shown(_told(error))


def _told(error: Exception) -> str:
    if not isinstance(error, errors.AncestralError):
        return str(error)
    # How a file was cut into messages is nothing that its owner knows of.
    text = str(error).removeprefix(f"message {error.index}: ")
    if not error.reason or not error.request_id:
        return text  # it never reached a server of ours
    delay = error.retry_after if isinstance(error, errors.Overloaded) else None
    later = "" if delay is None else f"; try again in {delay:.1f} s"
    return f"{text}{later} [request {error.request_id}]"


def warn(text: str) -> None:
    print(f"ancestral: {shown(text)}", file=sys.stderr)


def bits(model: Model) -> str:
    """The model's bits/dim on the test images; ≤ marks a bound."""
    metric = next((m for m in model.metrics if m.unit == "bits/dim" and m.split == "test"), None)
    if metric is None:
        return ""
    return f"{'≤ ' if metric.exact is False else ''}{metric.value:.3f}"


def done(out: Target, what: str, info: Info, as_json: bool = False, **facts: Any) -> None:
    """Say what was written, in words or, with `facts`, as JSON; where the arrays go to stdout, on stderr."""
    if as_json:
        print(json.dumps({"out": str(out), **facts, "info": asdict(info)}))
        return
    print(f"wrote {shown(out)}: {what}", file=sys.stderr if out.is_stdout else sys.stdout)
    about(info)


def write_samples(
    out: Target, drawn: Samples, first: NDArray[np.uint8] | None = None, *, as_json: bool = False
) -> None:
    """Write what was drawn and say so. A picture grid begins with `first` [H,W,C], which arrays leave to the caller."""
    likelihood = drawn.log_likelihood
    out.write(
        {"images": drawn.images, "log_likelihood": likelihood, "seed": np.array(drawn.seed)},
        grid=None if first is None else np.concatenate([first[np.newaxis], drawn.images]),
        first=drawn.first_index,
    )
    mean = "" if likelihood is None else f", mean log-likelihood {likelihood.mean():.1f} nats"
    what = f"{len(drawn.images)} images, seed {drawn.seed}{mean}"
    told_likelihood = None if likelihood is None else likelihood.tolist()
    facts = {"images": len(drawn.images), "seed": drawn.seed, "first_index": drawn.first_index}
    done(out, what, drawn.info, as_json, **facts, log_likelihood=told_likelihood)


def write_decoded(
    out: Target,
    decoded: Decoding,
    *,
    as_json: bool,
    grid: NDArray[np.uint8] | None = None,
    columns: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write what latents were decoded to and say so; a picture is that of `grid`, in so many columns."""
    arrays = {"images": decoded.images, "mean": decoded.mean, "variance": decoded.variance}
    out.write(arrays, grid=grid, columns=columns, names=names)
    done(out, f"{len(decoded.images)} images", decoded.info, as_json, images=len(decoded.images))


def about(info: Info) -> None:
    """Where the time went, on stderr, so that stdout stays for results."""
    batch = f", in a batch of {info.batch_size}" if info.batch_size else ""
    print(
        f"{shown(info.model)} version {info.version}: {info.total_seconds * 1000:.1f} ms in the server "
        f"(queue {info.queue_seconds * 1000:.1f}, compute {info.compute_seconds * 1000:.1f}{batch})",
        file=sys.stderr,
    )


def joined(parts: BulkStream[_Result], images: int) -> _Result:
    """The answers of a stream of so many images as one, with the times of all; a bar shows how far it is."""
    joining = Joining[_Result](images)
    with parts, _progress.told(progress=True) as tell:
        for part in parts:
            tell(joining.add(part), images)
    return joining.result()
