"""What a benchmark leaves: known to be writable before it begins, and written whole when it is done."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ancestral_client.files import write_json, write_text
from ancestral_client.replacing import FileProblem, check_writable, reason


def prepare(parser: argparse.ArgumentParser, out: Path, *more: str) -> None:
    """Ends the program with a line unless `out` can be written with the endings .md, .json and those of `more`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".md", ".json", *more):
            check_writable(out.with_suffix(suffix))
    except OSError as error:
        parser.error(f"--out: {out.parent}: cannot be made a folder: {reason(error)}")
    except FileProblem as problem:
        parser.error(f"--out: {problem}")


def write(out: Path, text: str, document: Any) -> None:
    """The report as Markdown and its figures as JSON."""
    write_text(out.with_suffix(".md"), text)
    write_json(out.with_suffix(".json"), document)
