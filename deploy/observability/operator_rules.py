"""Prometheus' rules as the PrometheusRule that the Prometheus operator of a cluster reads."""

from __future__ import annotations

from pathlib import Path

import yaml

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"


def as_manifest() -> str:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ancestral", "labels": {"app.kubernetes.io/name": "ancestral"}},
        "spec": {"groups": groups},
    }
    return "# Made by `make generated` from deploy/prometheus/rules.yml: change it there.\n" + yaml.safe_dump(
        document, sort_keys=False, width=120, allow_unicode=True
    )
