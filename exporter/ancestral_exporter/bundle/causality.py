"""The causality test: in an exported raster graph no pixel's probability depends on itself or on later pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.feeds import Subjects, make_feeds
from ancestral_exporter.bundle.report import VerifyReport
from ancestral_exporter.bundle.runtime import run_role

# Pixels looked at: all of a small image, evenly spread ones of a large one.
_MOST_PIXELS = 128


def check_causality(
    report: VerifyReport, session: Any, role: bundle_pb2.Role, image: bundle_pb2.ImageSpec, label_count: int
) -> None:
    """Free one pixel i of a known image, then change every pixel j >= i: the draw at i and its log-probability stay.

    One sample per pixel looked at; order is by row, column, channel. How many move when the pixels before i change is
    reported too: none would mean that the test sees nothing, or a model of independent pixels.
    """
    shape = (image.height, image.width, image.channels)
    size = int(np.prod(shape))
    pixels = np.unique(np.linspace(0, size - 1, min(size, _MOST_PIXELS)).astype(np.int64))
    random = np.random.default_rng(3)
    images = np.broadcast_to(random.integers(0, 256, size, dtype=np.uint8), (len(pixels), size)).copy()
    later = np.arange(size) >= pixels[:, None]  # [P,H·W·C]
    changed = np.where(later, images ^ np.uint8(0xFF), images)
    earlier_changed = np.where(later, images, images ^ np.uint8(0xFF))

    labels = np.arange(len(pixels)) % label_count if label_count else None
    names = {spec.meaning: spec.name for spec in (*role.inputs, *role.outputs)}
    draws = []
    for subject in (images, changed, earlier_changed):
        feeds = make_feeds(role, Subjects(subject.reshape(-1, *shape), labels, 3))
        known = np.arange(size) != pixels[:, None]
        feeds[names[bundle_pb2.MEANING_KNOWN]] = known.reshape(-1, *shape)
        feeds[names[bundle_pb2.MEANING_TEMPERATURE]][:] = 1
        outputs = run_role(session, role, feeds, image.height)
        rows = outputs[names[bundle_pb2.MEANING_ROW]].reshape(len(pixels), size)
        drawn = rows[np.arange(len(pixels)), pixels]
        if not np.array_equal(np.where(known, rows, 0), np.where(known, subject, 0)):
            report.add(f"{role.graph} known pixels", False, "do not come back as given")
        if bundle_pb2.MEANING_LOG_LIKELIHOOD in names:
            draws.append((drawn, outputs[names[bundle_pb2.MEANING_LOG_LIKELIHOOD]]))
        else:
            draws.append((drawn, drawn.astype(np.float32)))

    (drawn, score), (drawn_later, score_later), (_, score_earlier) = draws
    moved = (drawn != drawn_later) | (score != score_later)
    subject_name = f"{role.graph} causality"
    if moved.any():
        index = int(np.argmax(moved))
        at = [int(i) for i in np.unravel_index(pixels[index], shape)]
        by = float(abs(score[index] - score_later[index]))
        report.add(
            subject_name,
            False,
            f"pixel {at} depends on itself or on later pixels: its log-probability moved by {by:.3g}",
        )
    else:
        seen = int((score != score_earlier).sum())
        report.add(subject_name, True, f"{len(pixels)} pixels, none depends on later ones; {seen} on earlier ones")
