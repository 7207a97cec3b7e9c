"""Series as text, in the two formats that Prometheus reads: the classic one and OpenMetrics.

Written here and not by the library, which takes tens of times as long for each line, and holds the interpreter
meanwhile: nearly all lines of a scrape are those of histograms. Labels are text, as `labels` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from ancestral_server.metrics.histogram import LockFreeHistogram


def labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Sorted by name, as the library has them."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in sorted(zip(names, values, strict=True)))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def counter(name: str, text: str, counts: Mapping[str, float], open_metrics: bool) -> str:
    """Counts by their labels. The two formats name the family differently, and its samples alike."""
    family = name if open_metrics else f"{name}_total"
    lines = [f"{name}_total{{{labels}}} {float(count)}\n" for labels, count in counts.items()]
    return f"# HELP {family} {text}\n# TYPE {family} counter\n" + "".join(lines)


def gauge(name: str, text: str, values: Mapping[str, float | None]) -> str:
    """Values by their labels, of those that are known."""
    lines = [f"{name}{{{labels}}} {float(value)}\n" for labels, value in values.items() if value is not None]
    return f"# HELP {name} {text}\n# TYPE {name} gauge\n" + "".join(lines)


def histogram(name: str, text: str, histograms: Mapping[str, LockFreeHistogram], open_metrics: bool) -> str:
    """Tallies by their labels, of those that have a value; one of the formats has exemplars, too."""
    lines = [f"# HELP {name} {text}\n# TYPE {name} histogram\n"]
    for labels, histogram in histograms.items():
        counts, total = list(histogram.counts), histogram.total
        exemplars = dict(histogram.exemplars) if open_metrics and histogram.exemplars else {}
        if not any(counts):
            continue
        upto = 0
        before, own = (f"{labels},", f"{{{labels}}}") if labels else ("", "")
        for bucket, (bound, count) in enumerate(zip((*histogram.bounds, "+Inf"), counts, strict=True)):
            upto += count
            # What another load of the version has shown is none of these.
            example = exemplars.get(bucket) if count else None
            shown = f' # {{trace_id="{example.trace_id}"}} {example.value} {example.when:.3f}' if example else ""
            lines.append(f'{name}_bucket{{{before}le="{bound}"}} {float(upto)}{shown}\n')
        lines.append(f"{name}_count{own} {float(upto)}\n{name}_sum{own} {total}\n")
    return "".join(lines)
