"""The command `ancestral doctor`: what keeps this machine from a server, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Annotated

import typer
from rich.text import Text

from ancestral.terminal import console
from ancestral.text import shown
from ancestral_client import _arguments, _diagnosis
from ancestral_client import _reaching as reaching
from ancestral_client._access import Access
from ancestral_client._diagnosis import Asked
from ancestral_client._faults import Finding
from ancestral_client._options import Address, AsJson, Version

# What stands before a finding, and in which colour; rich leaves out the colour where NO_COLOR says so.
_MARKS = {"ok": ("ok", "green"), "problem": ("PROBLEM", "red"), "unknown": ("unknown", "yellow")}


def doctor(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A model that is needed.", autocompletion=reaching.complete_model),
    ] = None,
    version: Version = 0,
    as_json: AsJson = False,
    address: Address = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for each answer.")] = 10.0,
) -> None:
    """Find out what keeps this machine from a server, and say what to do about it.

    It looks at the proxy, the name, the port, TLS, the token, the versions, the clocks, the models (MODEL, or all), the
    limit of messages and the latency. The exit code is 0 where all is well, else that of a call that fails for the
    first problem.
    """
    with reaching.client(context, address, timeout) as client:  # which says what is wrong with these
        settings = client.__getstate__()
    asked = Asked(
        settings["address"],
        timeout=timeout,
        model=model,
        version=_arguments.version_of(version),
        access=Access(**{each.name: settings[each.name] for each in fields(Access)}),
    )
    findings = _diagnosis.diagnose(asked)
    code = next((finding.code for finding in findings if finding.state == "problem"), 0)
    if as_json:
        told = [asdict(finding) for finding in findings]
        print(json.dumps({"address": asked.address, "healthy": code == 0, "findings": told}, indent=2))
    else:
        _tell(findings)
    raise typer.Exit(code)


def _tell(findings: list[Finding]) -> None:
    stdout = console()
    for finding in findings:
        mark, colour = _MARKS[finding.state]
        stdout.print(Text(f"{mark:8}", colour) + Text(f"{finding.check:14}{shown(finding.said)}"), soft_wrap=True)
        if finding.remedy:
            stdout.print(Text(f"{'':22}→ {shown(finding.remedy)}"), soft_wrap=True)
