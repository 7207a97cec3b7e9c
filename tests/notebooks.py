"""Runs the notebooks of clients/examples as Jupyter would, without it: cell by cell, the last expression of each shown.

`python tests/notebooks.py NOTEBOOK` writes what the cells show into the notebook, asking the server at
ANCESTRAL_ADDRESS (localhost:8500): `make serve` first.
"""

from __future__ import annotations

import ast
import io
import json
import os
import sys
from base64 import b64encode
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
ADDRESS = "localhost:8500"


def code_cells(notebook: dict[str, Any]) -> list[Cell]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any], address: str) -> list[list[dict[str, Any]]]:
    """What each code cell shows, as nbformat 4 has it; its server is at `address`. Raises what a cell raises."""
    names: dict[str, Any] = {"__name__": "__main__"}
    return [
        outputs("".join(cell["source"]).replace(ADDRESS, address), names, number)
        for number, cell in enumerate(code_cells(notebook), 1)
    ]


def outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Runs one cell."""
    cell = f"cell {number}"
    tree = ast.parse(source, cell)
    last = tree.body[-1]
    shown = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
    if shown is not None:
        tree.body.pop()
    said = io.StringIO()
    with redirect_stdout(said):
        exec(compile(tree, cell, "exec"), names)
        value = None if shown is None else eval(compile(shown, cell, "eval"), names)
    found: list[dict[str, Any]] = []
    if said.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": said.getvalue().splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {"text/plain": [repr(value) if not hasattr(value, "_repr_png_") else "<picture>"]}
        picture = value._repr_png_() if hasattr(value, "_repr_png_") else None
        if picture is not None:
            data["image/png"] = b64encode(picture).decode("ascii")
        found.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return found


def main(path: Path) -> None:
    notebook = json.loads(path.read_text())
    found = run(notebook, os.environ.get("ANCESTRAL_ADDRESS", ADDRESS))
    for number, (cell, shown) in enumerate(zip(code_cells(notebook), found, strict=True), 1):
        cell.update(outputs=shown, execution_count=number)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
