"""What depth and width buy a PixelCNN of the digits: validation NLL beside what one sample costs.

    python tests/benchmarks/depth_and_width.py --epochs 34

trains the recipe digits-pixelcnn once for each net (vertical layers, horizontal layers, channels), one after the other
on one thread, and prints a Markdown table. The test images are not looked at: this is for choosing.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from rich.console import Console

from ancestral_exporter.bundle.export import export_graphs
from ancestral_exporter.cost import measure_cost
from ancestral_exporter.data import load
from ancestral_exporter.models.pixelcnn import PixelCNNSettings
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import find
from ancestral_exporter.training import Options, fit

NETS = ("4,4,64", "4,2,64", "6,2,64", "4,1,64", "4,4,48")
HEADER = (
    "| vertical × horizontal × channels | validation, bits/dim | million multiply-adds: all | pixel by pixel "
    "| ms/image, 1 at once | 64 at once | training, s |\n|---|---|---|---|---|---|---|"
)


def row(net: PixelCNNSettings, epochs: int | None, announce: Announcer) -> str:
    """Train, export and time one net: its line of the table."""
    settings = () if epochs is None else (f"schedule.epochs={epochs}",)
    recipe = dataclasses.replace(find("digits-pixelcnn", settings), model=net)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(recipe, load(recipe.data), Path(folder), Options(), announce)
        export_graphs(fitted.model.graphs(), Path(folder))
        cost = measure_cost(fitted.model, Path(folder))
    assert cost is not None
    best = min(entry["validation_bits_per_dim"] for entry in fitted.history)
    one, many = cost.timings
    total, vertical = sum(cost.multiply_adds.values()), cost.multiply_adds["vertical"]
    cells = [
        f"{net.vertical_layers} × {net.horizontal_layers} × {net.channels}",
        f"{best:.4f}",
        f"{total / 1e6:.2f}",
        f"{(total - vertical) / 1e6:.2f}",
        f"{1000 * one.sample_s:.2f}",
        f"{1000 * many.sample_s:.3f}",
        f"{fitted.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="of each training, instead of the recipe's")
    parser.add_argument("--nets", nargs="+", default=NETS, metavar="V,H,C", help=f"by default {' '.join(NETS)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = find("digits-pixelcnn").model
    progress = Console(stderr=True)  # the table alone goes to stdout
    print(HEADER, flush=True)
    for text in arguments.nets:
        vertical, horizontal, channels = map(int, text.split(","))
        net = dataclasses.replace(base, vertical_layers=vertical, horizontal_layers=horizontal, channels=channels)
        print(row(net, arguments.epochs, Announcer(progress, text)), flush=True)


if __name__ == "__main__":
    main()
