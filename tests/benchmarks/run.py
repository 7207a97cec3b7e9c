"""`make bench`: exact sampling against one parallel pass, naive loops and static batching; report.md, .json and .png.

Everything that is compared is timed in turn within one run; read ratios, since seconds depend on what else the machine
does.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1]))

import load
import reports
import sampling
from ancestral_client.replacing import replacing
from rig import CORES, rig
from running import ServerProcess, heed_sigterm

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="mnist-pixelcnn", help="a PixelCNN recipe; its weights stay untrained")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the recipe")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 256], help="images at once")
    parser.add_argument(
        "--row-dilations",
        type=int,
        nargs="+",
        default=[2, 4, 8, 1],
        help="of the dilated net that is compared with the same net undilated, whatever the recipe says; columns lie "
        "no more than 4 apart",
    )
    parser.add_argument("--pixelrnn", default="mnist-pixelrnn", help="a PixelRNN recipe that is compared with it")
    parser.add_argument("--repeats", type=int, default=7, help="timings of each kind; medians are reported")
    parser.add_argument("--naive-seconds", type=float, default=8.0, help="longest that a naive loop may run")
    parser.add_argument("--load-seconds", type=float, default=8.0, help="length of each load")
    parser.add_argument("--rounds", type=int, default=5, help="how often what is compared takes turns under load")
    parser.add_argument("--out", type=Path, default=HERE / "report", help="report without suffix")
    options = parser.parse_args()
    reports.prepare(parser, options.out, ".png")

    plain = [*options.set, *dilations([1])]
    dilated = [*options.set, *dilations(options.row_dilations)]
    with (
        tempfile.TemporaryDirectory() as temporary,
        rig(options.recipe, Path(temporary, "recipe"), options.set) as bench,
    ):
        report: dict[str, Any] = {"recipe": options.recipe, "cores": CORES, "machine": platform.machine()}
        rows = sampling.measure(bench, options.batches, options.repeats, options.naive_seconds, bench.models)
        report["sampling"] = [asdict(row) for row in rows]
        with (
            rig(options.recipe, Path(temporary, "undilated"), plain) as one,
            rig(options.recipe, Path(temporary, "dilated"), dilated) as other,
        ):
            report["dilated"] = sampling.beside(one, other, options.batches, options.repeats)
        report["row_dilations"] = options.row_dilations
        with rig(options.pixelrnn, Path(temporary, "pixelrnn")) as pixelrnn:
            report["pixelrnn"] = sampling.beside(bench, pixelrnn, options.batches, options.repeats)
        report["pixelrnn_recipe"] = options.pixelrnn
        with ServerProcess(bench.models) as server:
            report["through_server"] = sampling.through_server(bench, server.address, 64, options.repeats)
        report["poisson"] = load.compare_batching(bench, options.load_seconds, options.rounds)
        report["fairness"] = load.crowd_beside_a_giant(bench, options.load_seconds, options.rounds, 5, 5000)
    text = markdown(report)
    print(text)
    reports.write(options.out, text, report)
    plot(report, options.out.with_suffix(".png"))


def dilations(rows: list[int]) -> list[str]:
    """The settings of a net whose vertical windows look so many rows up, [1] for none that is dilated."""
    return [f"model.row_dilations={rows}", f"model.column_dilations={[min(each, 4) for each in rows]}"]


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"# Sampling `{report['recipe']}` on {report['cores']} cores",
        "",
        "Untrained weights; medians of timings taken in turn. Naive loops cost one pass per pixel; where not all their",
        "pixels were timed, the rest is extrapolated.",
        "",
        "| images | sample, s | one pass, s | ratio | × naive ONNX | × naive PyTorch | naive pixels timed |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines.extend(
        f"| {row['batch']} | {row['sample_seconds']:.3f} | {row['pass_seconds']:.4f} | {row['ratio']:.2f} "
        f"| {row['speedup_naive_onnx']:.0f} | {row['speedup_naive_torch']:.0f} "
        f"| {row['naive_pixels_onnx']}, {row['naive_pixels_torch']} |"
        for row in report["sampling"]
    )
    lines += [
        "",
        f"The same net with its vertical windows dilated by {', '.join(map(str, report['row_dilations']))} rows, whose",
        "states are read as many rows back, beside one with none dilated; CPU seconds of all threads:",
        "",
        *_beside(report["dilated"], "dilated", "undilated"),
        "",
        f"A PixelRNN, `{report['pixelrnn_recipe']}`, beside the PixelCNN; CPU seconds of all threads:",
        "",
        *_beside(report["pixelrnn"], "PixelRNN", "PixelCNN"),
    ]
    server = report["through_server"]
    poisson = report["poisson"]
    lines += [
        "",
        f"Through the whole server, {server['batch']} images take {server['ratio']:.2f} times what the engine takes.",
        "",
        f"## Poisson load, single images, {poisson['offered_images_per_second']:.0f} per second (70 % of capacity)",
        "",
        "| batching | images/s | p50, ms | p99, ms | first row p50, ms | first row p99, ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ("continuous", "static"):
        seen = poisson[name]
        times = " | ".join(f"{1000 * seen[key]:.0f}" for key in ("p50", "p99", "first_row_p50", "first_row_p99"))
        lines.append(f"| {name} | {seen['images_per_second']:.1f} | {times} |")
    fair = report["fairness"]
    lines += [
        "",
        f"p99 of continuous over static: {poisson['p99_ratio']:.2f}; throughput: {poisson['throughput_ratio']:.2f}.",
        "",
        "## A request for 5,000 images, and 5 single-image requests a second beside it",
        "",
        f"- Singles wait {fair['single_queue_rows_p50']:.2f} rows (median), "
        f"{fair['single_queue_rows_p99']:.2f} (p99), at most {fair['single_queue_rows_max']:.2f}.",
        f"- They take {fair['single_over_full_bucket_image_p50']:.2f} (median) and at most "
        f"{fair['single_over_full_bucket_image_max']:.2f} times what an image takes in a full batch.",
        f"- The large request keeps {100 * fair['giant_keeps']:.1f} % of its throughput.",
        "",
    ]
    return "\n".join(lines)


def _beside(rows: list[dict[str, Any]], other: str, net: str) -> list[str]:
    """A table of what `sampling.beside` found."""
    return [
        f"| images | {other}, CPU s | {net}, CPU s | ratio |",
        "|---:|---:|---:|---:|",
        *(
            f"| {row['batch']} | {row['other_cpu_seconds']:.3f} | {row['cpu_seconds']:.3f} | {row['ratio']:.3f} |"
            for row in rows
        ),
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    rows = report["sampling"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    batches = [row["batch"] for row in rows]
    for key, label in (("sample_seconds", "exact sampling"), ("pass_seconds", "one parallel pass")):
        left.plot(batches, [row[key] for row in rows], marker="o", label=label)
    naive = [row["sample_seconds"] * row["speedup_naive_onnx"] for row in rows]
    left.plot(batches, naive, marker="o", label="naive loop, ONNX")
    left.set(xscale="log", yscale="log", xlabel="images at once", ylabel="seconds", title=report["recipe"])
    left.legend()
    poisson = report["poisson"]
    keys = ("p50", "p99", "first_row_p50", "first_row_p99")
    for offset, name in ((-0.2, "continuous"), (0.2, "static")):
        right.bar([i + offset for i in range(4)], [1000 * poisson[name][key] for key in keys], 0.4, label=name)
    right.set_xticks(range(4), ["p50", "p99", "first row p50", "first row p99"])
    right.set(ylabel="milliseconds", title="Poisson load at 70 % of capacity")
    right.legend()
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    heed_sigterm()
    main()
