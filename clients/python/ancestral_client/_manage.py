"""The commands about the models themselves: which there are, and which are served."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from ancestral.terminal import console
from ancestral.text import shown
from ancestral_client import _outputs as outputs
from ancestral_client import _reaching as reaching
from ancestral_client._options import TIMEOUT, Address, AsJson, ModelName, Timeout
from ancestral_client.results import RoleForm

# The form that every role has.
GRAPH = "onnx"
Folder = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model: a folder of the server.")]


def models(
    context: typer.Context, as_json: AsJson = False, address: Address = None, timeout: Timeout = TIMEOUT
) -> None:
    """List the models, what each can do and how good it is."""
    with reaching.client(context, address, timeout) as client:
        found = client.models()
    if as_json:
        print(json.dumps([asdict(model) for model in found], indent=2))
        return
    if not found:
        print("The server has no models.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("MODEL", "VERSION", "IMAGES", "CAN", "TEST BITS/DIM", "STATE"):
        table.add_column(heading, justify="right" if heading == "VERSION" else "left")
    for model in found:
        state = f"serving on {model.device}" if model.serving else model.state
        state += "".join(f"; {form.role} {_run_by(form)}" for form in model.forms if form.form != GRAPH or form.reason)
        if model.reason:
            state += ", but what lies in its folder now was refused" if model.serving else ""
            state += f": {model.reason}"
        size = "×".join(map(str, model.image_shape)) if any(model.image_shape) else "?"
        if model.label_count:
            size += f", {model.label_count} classes"
        cells = (model.name, model.version, size, ", ".join(model.roles), outputs.bits(model), state)
        table.add_row(*map(shown, cells))
    # A pipe has no width to fit into: let every row be one line.
    stdout = console() if sys.stdout.isatty() else console(width=500)
    stdout.print(table, soft_wrap=not sys.stdout.isatty())


def _run_by(form: RoleForm) -> str:
    """What runs a role of which there is a kernel."""
    if form.form == GRAPH:
        return f"by its graph, not by its kernel: {form.reason}"
    return f"by its {form.form} on {form.device}" if form.device else f"by its {form.form}"


def load(
    context: typer.Context,
    model: Folder,
    version: Annotated[int, typer.Option(help="Version to load; 0 is the highest in the folder.")] = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Have the server load a version from its folder, or load it anew; what serves goes on until it is done."""
    with reaching.client(context, address, timeout) as client:
        loaded = client.load(model, version)
    print(shown(f"{loaded.name} version {loaded.version} serves on {loaded.device}"))


def unload(
    context: typer.Context,
    model: ModelName,
    version: Annotated[int, typer.Option(help="Version to unload; 0 is all of them.")] = 0,
    address: Address = None,
    timeout: Timeout = TIMEOUT,
) -> None:
    """Have the server take a version out of service, or all; it ends when their running calls have."""
    with reaching.client(context, address, timeout) as client:
        client.unload(model, version)
    print(shown(f"{model} {f'version {version}' if version else 'at every version'} is unloaded"))
    print(
        "it stays so until its files change or the server is started again; to keep it out for good, take its folder "
        "out of the server's folder of models",
        file=sys.stderr,
    )
