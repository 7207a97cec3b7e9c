"""Comparing what a graph gives with what its original gave, and telling an error from a rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ancestral.bundle import rules
from ancestral.bundle.ties import NEAR_TIE, Meaning, partings
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import RUN_FAILURES, Array, run_role


@dataclass(frozen=True)
class Tolerance:
    """Floats: |a - b| <= value (unit + |b|), see `rules.unit`. Integers: so large a part of the values may differ.

    Unless that part is 0, as many as `rules.roundings` may, however few values there are.
    """

    value: float
    pixels: float


def compare(
    report: VerifyReport,
    subject: str,
    session: Any,
    role: bundle_pb2.Role,
    feeds: Mapping[str, Array],
    wanted: Mapping[str, Array],
    tolerance: Tolerance,
) -> None:
    """Run the role on `feeds` and report each output's worst difference from `wanted`, or that it does not run.

    Samples of a raster role that part ways with PyTorch at a draw within `NEAR_TIE` are left out, and reported.
    """
    height = next((wanted[s.name].shape[1] for s in role.outputs if s.meaning == bundle_pb2.MEANING_ROW), 0)
    batch = len(next(iter(feeds.values())))
    subject = f"{role.graph} {role.name} {subject}, batch {batch}"
    try:
        got = run_role(session, role, feeds, height)
    except RUN_FAILURES as error:
        report.add(subject, False, f"fails: {error}")
        return
    excused = np.zeros(batch, np.bool_)
    if role.program == bundle_pb2.PROGRAM_RASTER:
        excused = _excused(report, subject, session, role, feeds, got, wanted)
    for spec in role.outputs:
        a, b = got[spec.name], wanted[spec.name]
        name = f"{subject}, {spec.name}"
        if a.shape != b.shape or a.dtype != b.dtype:
            report.add(name, False, f"is {a.dtype} {list(a.shape)}, wanted {b.dtype} {list(b.shape)}")
            continue
        report.add(
            name,
            *difference(a[~excused], b[~excused], tolerance, rules.unit(spec.meaning), rules.roundings(spec.meaning)),
        )


def difference(
    got: Array, wanted: Array, tolerance: Tolerance, unit: float = 1, roundings: int = 0
) -> tuple[bool, str]:
    """Whether two arrays of one shape are close enough, and a sentence about it. NaN is never close.

    unit, roundings: see `rules`.
    """
    if not np.issubdtype(wanted.dtype, np.floating):
        differing = int(np.count_nonzero(got != wanted))
        share = differing / max(1, got.size)
        allowed = f", at most {tolerance.pixels:.3%}" if tolerance.pixels else ""
        few = share <= tolerance.pixels or (tolerance.pixels > 0 and differing <= roundings)
        return few, f"{share:.3%} of the values differ{allowed}"
    distance = np.abs(got.astype(np.float64) - wanted)
    close = distance <= tolerance.value * (unit + np.abs(wanted))
    worst = float(np.max(distance, initial=0))
    detail = f"worst difference {worst:.3g}, tolerance {tolerance.value:.3g} ({unit:.6g} + |x|)"
    if not close.all():
        where = np.unravel_index(int(np.argmax(np.where(close, -1, np.nan_to_num(distance, nan=np.inf)))), got.shape)
        detail += f"; at {[int(i) for i in where]} {got[where]:.9g}, wanted {wanted[where]:.9g}"
    return bool(close.all()), detail


def _excused(
    report: VerifyReport,
    subject: str,
    session: Any,
    role: bundle_pb2.Role,
    feeds: Mapping[str, Array],
    got: Mapping[str, Array],
    wanted: Mapping[str, Array],
) -> Array:
    """Which samples [B] part ways by a rounding alone, see `ancestral.bundle.ties`."""
    row = next(spec.name for spec in role.outputs if spec.meaning == bundle_pb2.MEANING_ROW)
    names = {spec.meaning: spec.name for spec in role.inputs}
    excused = np.zeros(len(got[row]), np.bool_)
    if got[row].shape != wanted[row].shape:
        return excused

    def paint(given: Mapping[Meaning, Array]) -> Array:
        named = {names[meaning]: value for meaning, value in given.items()}
        return run_role(session, role, named, got[row].shape[1])[row]

    given = {meaning: feeds[name] for meaning, name in names.items()}
    for sample, at, within in partings(paint, given, got[row], wanted[row]):
        excused[sample] = within is not None
        near = f"a draw within {within:g} of a tie" if within is not None else f"not a tie (|u - p| > {NEAR_TIE:g})"
        report.add(f"{subject}, sample {sample}", within is not None, f"first differs at {at}, {near}")
    return excused
