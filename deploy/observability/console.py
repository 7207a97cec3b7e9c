"""A board as a console page, which Prometheus itself serves: one file without libraries, for whoever has no Grafana."""

from __future__ import annotations

import json
import re
from pathlib import Path

from observability.panels import Board

TEMPLATE = Path(__file__).parent / "console.html"


def as_html(board: Board) -> str:
    """The page. Prometheus expands what stands in double braces; so labels in legends stand in double brackets here."""
    rows = [
        {
            "title": title,
            "panels": [
                {
                    "title": panel.title,
                    "description": panel.description,
                    "runbook": panel.runbook,
                    "unit": panel.unit,
                    "kind": panel.kind,
                    "width": panel.width,
                    "thresholds": panel.thresholds,
                    "lowIsBad": panel.low_is_bad,
                    "queries": [
                        {"expr": query.expr, "legend": re.sub(r"{{(\w+)}}", r"[[\1]]", query.legend)}
                        for query in panel.queries
                    ],
                }
                for panel in panels
            ],
        }
        for title, panels in board.rows
    ]
    page = TEMPLATE.read_text()
    for mark, text in (
        ("@TITLE@", board.title),
        ("@DESCRIPTION@", board.description),
        ("@ROWS@", json.dumps(rows, indent=1, ensure_ascii=False).replace("<", "\\u003c")),
    ):
        page = page.replace(mark, text)
    return page
