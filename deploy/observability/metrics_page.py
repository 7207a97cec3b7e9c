"""The table of server/docs/metrics.md, from a scrape of every instrument that the server has."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from ancestral_server.metrics import DROPS, REFUSALS, Gpu, Metrics

BEGIN = "<!-- Made by `make generated` from the server's instruments: change their texts there. -->\n"
END = "<!-- The end of what is made. -->\n"
# Of a histogram, and not of what it tells.
_INNER = ("le", "quantile")
_READ: Any = text_string_to_metric_families


def _every_instrument() -> Metrics:
    """Instruments that all have a value, so that a scrape shows them with their labels."""
    metrics = Metrics("0")
    metrics.machine.runs_on(device="cpu", threads=1, cpus=1, memory_bytes=1)
    metrics.machine.gpus(lambda: [Gpu("0", "", "", "", True, 0, 0, 0, 0, 0)])
    metrics.stopping()
    metrics.loop_lag.observe(0)
    metrics.traces()
    method = metrics.method("unary", "service", "Method")
    method.seconds.observe(0)
    lane = metrics.lanes.make("m", 1, "sample", raster=True)
    metrics.lanes.show("m", 1, "sample", lane)
    lane.watch_slots(1, lambda: 0)
    lane.record_request(1, 0, 0)
    lane.first_row_seconds.observe(0)
    lane.batch_size.observe(1)
    quality = lane.quality
    quality.samples, quality.input_intensity, quality.input_shift = True, 0, 0
    quality.latent_shift, quality.latent_spread = 0, 0
    quality.bits_per_dim.observe(1)
    for reason in REFUSALS:
        lane.refused(reason)
    for reason in DROPS:
        lane.dropped(reason, 1)
    metrics.models.state("m", 1, True)
    metrics.models.about("m", 1, {"family": "", "image": "", "roles": "", "device": ""})
    metrics.lanes.form("m", 1, "sample", "onnx")
    metrics.machine.device("cuda:0")
    metrics.models.draining("m", 1, 1)
    metrics.models.loaded("m", 0, ok=True)
    metrics.models.verified("m", 0, ok=True)
    metrics.access.caller("caller", lambda: 0)
    metrics.access.denied("TOKEN_UNKNOWN")
    return metrics


def table() -> str:
    """A line for each family, by name: its name as it is asked for, its type, its labels, what it tells."""
    lines = ["| name | type | labels | |", "|---|---|---|---|"]
    families = _READ(_every_instrument().scrape(False).decode())
    for family in sorted(families, key=lambda family: family.name):
        labels = {label: None for sample in family.samples for label in sample.labels if label not in _INNER}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        named = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{name}` | {family.type} | {named} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def as_page(page: str) -> str:
    """A page whose table is made anew; the rest of it is written by hand."""
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert end, f"the page has no place for the table: between {BEGIN!r} and {END!r}"
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"
