"""`make generated`: write everything that is made here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from observability import console, grafana, metrics_page, operator_rules
from observability.panels import BOARDS, OVERVIEW

ROOT = Path(__file__).parents[2]
METRICS_PAGE = ROOT / "server" / "docs" / "metrics.md"


def made() -> Mapping[Path, str]:
    """What each file should hold."""
    deploy = ROOT / "deploy"
    return {
        **{deploy / "grafana" / "dashboards" / f"{board.uid}.json": grafana.as_json(board) for board in BOARDS},
        deploy / "prometheus" / "consoles" / "ancestral.html": console.as_html(OVERVIEW),
        deploy / "kubernetes" / "monitoring" / "rules.yaml": operator_rules.as_manifest(),
        METRICS_PAGE: metrics_page.as_page(METRICS_PAGE.read_text()),
    }


def main() -> None:
    for path, text in made().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
