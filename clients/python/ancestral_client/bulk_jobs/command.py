"""`ancestral bulk`: arguments to a job, the job to an engine, and what is said of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ancestral.text import shown
from ancestral_client import _arguments, errors
from ancestral_client import _reaching as reaching
from ancestral_client._options import AsJson, BulkPriority, Resize, Scale, Version
from ancestral_client.replacing import FileProblem

if TYPE_CHECKING:
    from ancestral_client.bulk_jobs.job import Done, Job
    from ancestral_client.bulk_jobs.servers import Place

Role = Literal["encode", "score", "features", "classify"]
Engine = Literal["local", "ray"]

# A call stands back behind all others, and holds up to 256 images.
_TIMEOUT_SECONDS = 600.0
_WAIT_SECONDS = 300.0
# What an end of any kind may cost, and what each worker has to itself: a few seconds to a minute of most models.
_PART_ROWS = 4096
# While one worker writes and reads, the other keeps the server busy.
_LEAST_WORKERS = 2


def bulk(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="What to ask of the model.")],
    model: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            default_factory=list,
            show_default=False,
            help="Name of the model; not needed where there is only one that can do it.",
        ),
    ],
    path: Annotated[
        str, typer.Argument(metavar="IN", help="Parquet, a folder of it or of pictures, one picture, .npy or .npz.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder for Parquet files: new, or of the same job.")],
    column: Annotated[
        str | None, typer.Option(help="Column of IN with the images: pictures' bytes or paths, pixels, numbers.")
    ] = None,
    keep_images: Annotated[bool, typer.Option("--keep-images", help="Also keep the column of images.")] = False,
    resize: Resize = None,
    scale: Scale = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="CLASS|COLUMN", help="score, features: class of all images, or the column with each's."),
    ] = None,
    draws: Annotated[int, typer.Option(help="score: draws of each bound.")] = 1,
    seed: Annotated[int, typer.Option(help="score: seed of the draws.")] = 0,
    draw_seed: Annotated[
        int | None, typer.Option(help="encode: also draw one z per image, with this seed: column latent.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Put before the names of the columns of results.")] = "",
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="At a row that cannot be used: end, or go on with nulls and the reason in column error."),
    ] = "fail",
    engine: Annotated[Engine, typer.Option(help="local: this process; ray: actors on Ray.")] = "local",
    workers: Annotated[
        int | None, typer.Option(help="How many work at a time; by default 2, or one for each server.")
    ] = None,
    ray_address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="--engine ray: the cluster; local: one on this machine.")
    ] = "local",
    local: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Ask no server, but one of our own for this bundle, NAME/VERSION."),
    ] = None,
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where the server listens; several times for several servers."),
    ] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for servers that went away, before it ends.")
    ] = _WAIT_SECONDS,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for the answer of a call; inf: for ever.")
    ] = _TIMEOUT_SECONDS,
    part_rows: Annotated[
        int, typer.Option(help="Rows of a file of OUT, which is what is lost where the work is interrupted.")
    ] = _PART_ROWS,
    priority: BulkPriority = "batch",
    version: Version = 0,
    as_json: AsJson = False,
) -> None:
    """Send a whole data set through a model: Parquet, pictures or arrays in, Parquet out.

    Columns of IN are kept, but for that of the images. The same command goes on where an earlier one was interrupted,
    and does anew what has changed in IN since; OUT has each row once, in the order of IN.
    """
    if len(model) > 1:
        raise errors.invalid(
            role, f"takes [MODEL] IN OUT, not {len(model) + 2} of them: {' '.join(model)} {path} {out}"
        )
    name = model[0] if model else ""
    for option, given, fitting in (
        ("--draws", draws != 1, ("score",)),
        ("--seed", seed != 0, ("score",)),
        ("--draw-seed", draw_seed is not None, ("encode",)),
        ("--labels", labels is not None, ("score", "features")),
    ):
        if given and role not in fitting:
            raise errors.invalid(option, f"is for {' and '.join(fitting)}, not for {role}")
    if local is not None and address:
        raise errors.invalid("--local", "asks a server of its own, and --address another one; give one of them")
    if workers is not None:
        _arguments.count_of("--workers", workers)
    _arguments.count_of("--part-rows", part_rows)
    _arguments.count_of("--draws", draws)
    _arguments.timeout_of(timeout)
    if not wait >= 0:
        raise errors.invalid("--wait", f"is {wait:g}; must be at least 0 seconds")
    _need("pyarrow")
    if engine == "ray":
        _need("ray")
    from ancestral_client.bulk_jobs import local as threads
    from ancestral_client.bulk_jobs import plan, progress
    from ancestral_client.bulk_jobs.job import Asked
    from ancestral_client.bulk_jobs.output import Output
    from ancestral_client.bulk_jobs.own_server import Bundle, OwnServer
    from ancestral_client.bulk_jobs.servers import Elsewhere, Servers

    with ExitStack() as ending:
        places: Sequence[Place]
        if local is not None:
            bundle = Bundle.at(local)
            if name not in ("", bundle.name) or version not in (0, bundle.version):
                raise errors.invalid("--local", f"{local} is {bundle.name} version {bundle.version}, not what is asked")
            name, version = bundle.name, bundle.version
            # On a cluster each worker has a server of its own, with one CPU for both.
            places = [OwnServer(bundle, timeout, threads=1 if engine == "ray" else None)]
        else:
            addresses: Sequence[str | None] = address or [None]
            places = [Elsewhere(reaching.client(context, at, timeout, priority, retry_seconds=0)) for at in addresses]
        servers = Servers(places, wait)
        ending.callback(servers.stop)
        asked = Asked(
            role=role,
            model=name or plan.only_model(places, role),
            version=_arguments.version_of(version),
            input=os.path.abspath(path),
            column=column,
            keep_images=keep_images,
            scale=scale,
            resize=resize,
            labels=labels,
            draws=draws,
            seed=seed,
            draw_seed=draw_seed,
            prefix=prefix,
            part_rows=part_rows,
        )
        # Workers of Ray have folders of their own.
        source = Path(path if engine == "local" else asked.input)
        output = Output(Path(out), source, asked)
        ending.callback(output.close)
        job = plan.planned(asked, source, output, places, wait, on_error)
        parts = job.source.parts(part_rows)
        done = output.begin(job, parts)
        before = sum(found.rows for found in done.values())
        _say_first(job, len(parts), len(done))

        todo = [part for part in parts if part.index not in done]
        count = workers or max(_LEAST_WORKERS, len(places))
        began = time.monotonic()
        with _kept(done, len(parts)), progress.bar(sum(part.rows for part in parts), before) as bar:
            work: Generator[Done, None, None]
            if engine == "ray" and todo:
                from ancestral_client.bulk_jobs import on_ray

                servers.stop()  # each worker has its own way to them
                work = on_ray.run(job, todo, count, bar.advance, address=ray_address, own_servers=local is not None)
            else:
                work = threads.run(job, todo, servers, count, bar.advance)
            with closing(work):
                for found in work:
                    done[found.part] = found
        output.finish(job, list(done.values()))
        _say_last(job, out, done, before, time.monotonic() - began, as_json)


def _need(module: str) -> None:
    """Ends the command with one line where a package of the extra is not installed."""
    if find_spec(module) is None:
        print(f"ancestral: bulk needs {module}, which is not installed: pip install 'ancestral[bulk]'", file=sys.stderr)
        raise typer.Exit(1)


@contextmanager
def _kept(done: Mapping[int, Done], parts: int) -> Iterator[None]:
    """Says of an end before the end what is kept, and how to go on."""
    try:
        yield
    except (errors.AncestralError, FileProblem) as error:
        error.args = (f"{error}; {_going_on(done, parts)}",)
        raise
    except KeyboardInterrupt:
        print(f"ancestral: interrupted; {_going_on(done, parts)}", file=sys.stderr)
        raise


def _going_on(done: Mapping[int, Done], parts: int) -> str:
    return f"{len(done)} of {parts} parts are done and kept: the same command goes on from there"


def _say_first(job: Job, parts: int, done: int) -> None:
    if job.source.left_out:
        print(f"ancestral: {_count(job.source.left_out, 'other file')} in IN left out", file=sys.stderr)
    if done:
        print(f"ancestral: {done} of {parts} parts are done already", file=sys.stderr)


def _say_last(job: Job, out: str, done: Mapping[int, Done], before: int, seconds: float, as_json: bool) -> None:
    parts = [done[index] for index in sorted(done)]
    rows, skipped = sum(part.rows for part in parts), sum(part.skipped for part in parts)
    if as_json:
        about = {"out": out, "rows": rows, "skipped": skipped, "files": len(parts), "rows_of_this_run": rows - before}
        print(json.dumps({**about, "seconds": seconds, "model": job.asked.model, "version": job.version}))
        return
    print(f"wrote {shown(out)}: {_count(rows, 'row')} in {_count(len(parts), 'file')}")
    in_colour = sum(part.in_colour for part in parts)
    if in_colour:
        print(f"ancestral: {_count(in_colour, 'picture')} in colour read as grey", file=sys.stderr)
    if skipped:
        first = next(part.problem for part in parts if part.problem)
        print(
            f"ancestral: {_count(skipped, 'row')} without results, column error says why; {shown(first)}",
            file=sys.stderr,
        )
    if rows > before:
        print(
            f"{shown(job.asked.model)} version {job.version}: {rows - before:,} rows in {seconds:.1f} s, "
            f"{(rows - before) / seconds:,.0f} rows/s",
            file=sys.stderr,
        )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
