"""`ancestral-demo`: what `make demo` and `make serve` run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ancestral.terminal import console
from ancestral.text import shown, shown_lines
from ancestral_client import AncestralError
from ancestral_client.replacing import FileProblem
from ancestral_demo import demo
from ancestral_demo.processes import (
    LISTENING,
    DemoError,
    Server,
    beside,
    command,
    has_any_bundle,
    sampling_model,
    train_missing,
)

app = typer.Typer(
    help="The whole system at work on real digits.",
    add_completion=False,
    no_args_is_help=True,
    # Plain: in its panels typer says of each flag that it takes a <bool>.
    rich_markup_mode=None,
)
Models = Annotated[Path, typer.Option(help="Folder of models; filled where it has none.")]
Zoo = Annotated[
    Path | None, typer.Option(help="Folder of trained models to serve too; of a name that both have, that of --models.")
]


def tell_version(wanted: bool) -> None:
    if wanted:
        print(f"ancestral-demo {metadata.version('ancestral')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    models: Models = Path("models"), out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("demo")
) -> None:
    """Train, export, verify, serve, sample, encode, measure."""
    stdout = console()
    report = demo.run(models, out, stdout)
    report.print(stdout)
    stdout.print(
        Text.assemble(
            "Pictures and the report are in ", (f"{shown(out)}/", "bold"), f"; it took {report.seconds:.0f} s."
        )
    )
    later = " serves the same models until Ctrl-C and says how to ask it for samples."
    stdout.print(Text.assemble("Next: ", ("make serve", "bold"), later))


@app.command(short_help="Serve the models until Ctrl-C.")
def serve(
    models: Models = Path("models"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port.")] = 8500,
    metrics_port: Annotated[int, typer.Option(help="Prometheus port.")] = 9464,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    zoo: Zoo = None,
) -> None:
    """Serve the models until Ctrl-C, whatever they are; trains the default ones first if there are none."""
    if not has_any_bundle(models):
        train_missing(models)
    _say_when_it_listens(sampling_model(models, zoo))
    flags = [
        f"--models={models}",
        f"--host={host}",
        f"--port={port}",
        f"--metrics-port={metrics_port}",
        f"--device={device}",
        *beside(zoo),
    ]
    # In place of this process, so that signals and exit codes are the server's own.
    os.execv(command("ancestral-server"), [command("ancestral-server"), *flags])


@app.command(short_help="Serve the models, and the page that shows what they do.")
def studio(
    models: Models = Path("models"),
    host: Annotated[str, typer.Option(help="Address that the page listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page.")] = 8080,
    zoo: Zoo = None,
) -> None:
    """Serve the models on a free port and the studio before them, until Ctrl-C; trains the default ones first if there
    are none.
    """
    if not has_any_bundle(models):
        train_missing(models)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end as by Ctrl-C, and the server with this process
    with Server(models, zoo) as server:
        page = subprocess.Popen(
            [command("ancestral"), "studio", f"--host={host}", f"--port={port}", f"--address={server.address}"]
        )
        try:
            code = page.wait()
        except KeyboardInterrupt:
            page.terminate()
            code = page.wait()
    raise typer.Exit(code)


def _say_when_it_listens(model: str | None) -> None:
    """Let a child process pass on what this one prints from now on, and say how to ask the server once it listens.

    model: one that samples, None where there is none.
    """
    sys.stdout.flush()
    readable, writable = os.pipe()
    if os.fork():
        os.close(readable)
        os.dup2(writable, sys.stdout.fileno())
        os.close(writable)
        return
    os.close(writable)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the server
    with open(readable) as lines:
        for line in lines:
            if listening := LISTENING.search(line):
                print(_how_to_ask(model, *listening.groups()))
            print(line, end="", flush=True)
    os._exit(0)


def _how_to_ask(model: str | None, address: str, metrics: str) -> str:
    client = os.path.relpath(command("ancestral"))
    where = "" if address.endswith(":8500") else f" --address {address}"
    ask = f"models{where}" if model is None else f"sample {model} -n 16 --seed 7 --out grid.png{where}"
    return (
        f"In a second terminal, ask for {'what there is' if model is None else 'samples'}:\n\n"
        f"  {client} {ask}\n\n"
        f"Metrics: http://{metrics}/metrics. Ctrl-C stops the server."
    )


def main() -> None:
    """Exit code 1 with one clear message if a step failed."""
    try:
        app()
    except (DemoError, AncestralError, FileProblem) as error:
        console(stderr=True).print(shown_lines(f"ancestral-demo: {error}"), style="red", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        problem = shown_lines(f"ancestral-demo: {error.filename}: {error.strerror}")
        console(stderr=True).print(problem, style="red", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
