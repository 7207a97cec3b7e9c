"""Comparing what a graph gives with what its original gave, and telling an error from a rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ancestral.bundle import rules
from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import RUN_FAILURES, Array, run_role

# Largest |u - p| at which two float32 computations of p may draw different levels.
NEAR_TIE = 1e-5
# By how much u is moved to see how close a draw was, smallest first.
_NUDGES = (1e-7, 1e-6, NEAR_TIE)


@dataclass(frozen=True)
class Tolerance:
    """Floats: |a - b| <= value (unit + |b|), see `rules.unit`. Integers: so large a part of the values may differ."""

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
        report.add(name, *difference(a[~excused], b[~excused], tolerance, rules.unit(spec.meaning)))


def difference(got: Array, wanted: Array, tolerance: Tolerance, unit: float = 1) -> tuple[bool, str]:
    """Whether two arrays of one shape are close enough, and a sentence about it. NaN is never close.

    unit: see `rules.unit`.
    """
    if not np.issubdtype(wanted.dtype, np.floating):
        share = float((got != wanted).mean()) if got.size else 0.0
        allowed = f", at most {tolerance.pixels:.3%}" if tolerance.pixels else ""
        return share <= tolerance.pixels, f"{share:.3%} of the values differ{allowed}"
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
    """Which samples [B] differ only by rounding: their first differing pixel flips when its uniform is nudged.

    At temperature 0: when the temperature is.
    """
    row = next(spec.name for spec in role.outputs if spec.meaning == bundle_pb2.MEANING_ROW)
    names = {spec.meaning: spec.name for spec in role.inputs}
    uniforms, temperature = names[bundle_pb2.MEANING_UNIFORMS], names[bundle_pb2.MEANING_TEMPERATURE]
    excused = np.zeros(len(got[row]), np.bool_)
    if got[row].shape != wanted[row].shape:
        return excused
    for sample in range(len(excused)):
        differs = got[row][sample] != wanted[row][sample]
        if not differs.any():
            continue
        pixel = int(np.argmax(differs))  # in raster order
        at = [int(i) for i in np.unravel_index(pixel, differs.shape)]
        for nudge in _NUDGES:
            pair = {name: np.repeat(value[sample : sample + 1], 2, axis=0) for name, value in feeds.items()}
            if pair[temperature][0] > 0:
                pair[uniforms].reshape(2, -1)[:, pixel] += np.array([-nudge, nudge], np.float32)
            else:
                # Without temperature no uniform has a say; with very little only where two levels are as likely.
                pair[temperature][:] = nudge
                pair[uniforms].reshape(2, -1)[:, pixel] = (0.01, 0.99)
            redrawn = run_role(session, role, pair, got[row].shape[1])[row].reshape(2, -1)
            if (redrawn[:, pixel] == wanted[row][sample].flat[pixel]).any():
                excused[sample] = True
                report.add(
                    f"{subject}, sample {sample}", True, f"first differs at {at}, a draw within {nudge:g} of a tie"
                )
                break
        else:
            report.add(
                f"{subject}, sample {sample}", False, f"first differs at {at}, not a tie (|u - p| > {NEAR_TIE:g})"
            )
    return excused
