"""The command `ancestral bench`: how fast a server answers, in a load of your choice.

Shapes: N images of a call, H rows, W columns, C channels, Z latent dimensions.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from ancestral_client import _arguments, _load, errors
from ancestral_client import _reaching as reaching
from ancestral_client._options import TIMEOUT, Address, AsJson, ModelName, Priority, Timeout, Version
from ancestral_client._progress import told
from ancestral_client.client import AsyncClient
from ancestral_client.replacing import FileProblem, check_writable, replacing
from ancestral_client.results import Model

CallName = Literal["encode", "score", "features", "classify", "sample", "decode"]
# What a model is asked for if nobody says: the first of these that it can do.
_USUAL: tuple[CallName, ...] = ("encode", "score", "features", "classify", "sample", "decode")
# Longer than anybody looks at a terminal; every call is kept until the end.
_MOST_SECONDS, _MOST_RATE, _MOST_CONCURRENCY = 3600.0, 100_000.0, 10_000
_TICK_SECONDS = 0.2


def bench(
    context: typer.Context,
    model: ModelName,
    call: Annotated[
        CallName | None, typer.Option(help="What to ask for; by default the first of these that the model can do.")
    ] = None,
    images: Annotated[int, typer.Option("-n", "--images", help="Images, or latents, of each call.")] = 1,
    concurrency: Annotated[
        int,
        typer.Option(help="Closed loop: so many callers, each of which waits for its answer before it asks again."),
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Open loop: so many calls a second, at random times, whatever becomes of those before; latencies "
            "count from when a call was due."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long calls are made; it ends at most --timeout later.")] = 10.0,
    warm_up: Annotated[float, typer.Option(help="Seconds at the beginning that do not count, among --seconds.")] = 1.0,
    csv: Annotated[Path | None, typer.Option(help="Also write a line for each call to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Also draw latencies, over time and by percentile, to this .png, .svg or .pdf.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random images, and of the times of an open loop.")] = 0,
    as_json: AsJson = False,
    priority: Priority = "interactive",
    version: Version = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Measure how fast a server answers: calls a second, and percentiles of the latency.

    Nothing is tried again: what is refused or late is counted as such. This machine's own work is in the latencies; the
    line `begun late` says whether it kept up with an open loop.
    """
    _within("seconds", seconds, 0.1, _MOST_SECONDS)
    _within("warm-up", warm_up, 0, seconds * 0.9)
    if rate is not None:
        _within("rate", rate, 0.01, _MOST_RATE)
    _within("concurrency", concurrency, 1, _MOST_CONCURRENCY)
    _arguments.count_of("images", images)
    for path in (csv, plot):
        if path is not None:
            check_writable(path)
    if plot is not None:
        _check_plot(plot)
    with reaching.client(context, address, timeout, priority) as client:
        found = reaching.served(client, model, version)
        settings = client.__getstate__() | {"retry_seconds": 0}
    asked = _asked(found, call)
    random = np.random.default_rng(_arguments.seed_of("seed", seed))
    patience = timeout if math.isfinite(timeout) else _MOST_SECONDS
    load = asyncio.run(_run(settings, found, asked, images, seconds, patience, rate, concurrency, random))
    report, calls = _load.report(load.calls, seconds, warm_up), load.calls
    if csv is not None:
        text = io.StringIO()
        _load.write_csv(text, calls)
        with replacing(csv) as file:
            file.write(text.getvalue().encode())
    if plot is not None:
        _draw(plot, calls, warm_up, f"{found.name}: {asked} of {images}")
    if as_json:
        loop = {"loop": "closed", "concurrency": concurrency} if rate is None else {"loop": "open", "rate": rate}
        about = {"model": found.name, "version": found.version, "call": asked, "images": images, "seconds": seconds}
        print(json.dumps({**about, **loop, **asdict(report)}, indent=2))
    else:
        _tell(report, found, asked, images, concurrency, rate)
    if not report.answered:
        raise load.problem or errors.DeadlineExceeded(f"none of {report.calls} calls was answered in time")


async def _run(
    settings: dict[str, Any],
    model: Model,
    asked: CallName,
    images: int,
    seconds: float,
    patience: float,
    rate: float | None,
    concurrency: int,
    random: np.random.Generator,
) -> _load.Load:
    async with AsyncClient(**settings) as client:
        load = _load.Load(_ask(client, model, asked, images, random), seconds, patience)
        ticking = asyncio.create_task(_tick(load, seconds))
        try:
            await (load.closed(concurrency) if rate is None else load.open(rate, random))
            return load
        finally:
            ticking.cancel()
            with suppress(asyncio.CancelledError):
                await ticking


async def _tick(load: _load.Load, seconds: float) -> None:
    """Shows how far it is."""
    with told(progress=True, what="seconds") as tell:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            tell(min(round(load.now()), math.ceil(seconds)), math.ceil(seconds))


def _ask(client: AsyncClient, model: Model, asked: CallName, images: int, random: np.random.Generator) -> _load.Ask:
    """A call of random images, latents or seeds."""
    if asked == "sample":
        return partial(client.sample, model.name, images, label=0 if model.label_count else None, version=model.version)
    if asked == "decode":
        latents = random.standard_normal((images, model.latent_size), np.float32)
        return partial(client.decode, model.name, latents, version=model.version)
    pixels = random.integers(0, 256, (images, *model.image_shape), np.uint8)
    labels = {"labels": 0} if model.label_count and asked in ("score", "features") else {}
    return partial(getattr(client, asked), model.name, pixels, version=model.version, **labels)


def _asked(model: Model, call: CallName | None) -> CallName:
    if call is None:
        call = next((name for name in _USUAL if name in model.roles), None)
    if call is None or call not in model.roles:
        can = ", ".join(model.roles)
        raise errors.RoleNotSupported(f"model {model.name} has no role {call or 'of ours'!r}; it has {can}")
    return call


def _within(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise errors.invalid(f"--{field}", f"is {value:g}; must be {least:g} to {most:g}")


def _tell(
    report: _load.Report, model: Model, asked: CallName, images: int, concurrency: int, rate: float | None
) -> None:
    loop = f"{concurrency} callers" if rate is None else f"{rate:g} calls a second"
    print(f"{model.name} version {model.version}, {asked} of {images} {'image' if images == 1 else 'images'}, {loop}")
    print(f"{report.calls} calls: {_counted(report.outcomes)}")
    per_second = report.calls_per_second
    print(
        f"{per_second:.1f} calls/s answered of {report.offered_per_second:.1f} made, {per_second * images:.1f} images/s"
    )
    if report.latency_ms:
        print("latency ms: " + ", ".join(f"{name} {value:.2f}" for name, value in report.latency_ms.items()))
    if rate is not None:
        print(f"begun late: p99 {report.late_ms:.2f} ms")


def _counted(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items(), key=lambda pair: -pair[1]))


def _check_plot(path: Path) -> None:
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise FileProblem(f"{path}: the name must end in .png, .svg or .pdf")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise FileProblem(f"{path}: needs matplotlib, which is not installed: pip install matplotlib") from None


def _draw(path: Path, calls: list[_load.Call], warm_up: float, title: str) -> None:
    """Latencies over time, and by percentile, the latter without the warming up."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    over_time, by_share = figure.subplots(1, 2)
    for outcome in sorted({call.outcome for call in calls}):
        these = [call for call in calls if call.outcome == outcome]
        latencies = [call.latency * 1000 for call in these]
        over_time.plot([call.due for call in these], latencies, ".", markersize=3, label=outcome)
    over_time.set(xlabel="due, s", ylabel="latency, ms", title=title, yscale="log")
    over_time.yaxis.set(major_formatter=LogFormatter(), minor_formatter=LogFormatter())
    over_time.axvspan(0, warm_up, alpha=0.1, label="warming up")
    over_time.legend()
    answered = np.sort([call.latency * 1000 for call in calls if call.outcome == _load.OK and call.due >= warm_up])
    if len(answered):
        # The share of calls that took longer, on a scale that gives each nine as much room.
        by_share.plot(1 / (1 - np.arange(len(answered)) / len(answered)), answered)
        ticks = [1 / (1 - share / 100) for share in _load.PERCENTILES]
        by_share.set(xscale="log", xlabel="percentile", ylabel="latency, ms", title="answered calls")
        by_share.set_xticks(ticks, [f"{share:g}" for share in _load.PERCENTILES])
        by_share.minorticks_off()
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower())
