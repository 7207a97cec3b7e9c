"""CARD.md: what a person should know about a model before using it. And where the bundle came from."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.export import graph_roles
from ancestral_exporter.cost import SamplingCost
from ancestral_exporter.evaluate import Evaluation
from ancestral_exporter.models.base import ImageModel
from ancestral_exporter.plots import CURVE, METRICS, SAMPLES, temperature_of
from ancestral_exporter.recipes import Recipe
from ancestral_exporter.sampling import Agreement, sample_role
from ancestral_exporter.served.latents import ACTIVE_VARIANCE, Latents
from ancestral_exporter.served.likelihood import Likelihood
from ancestral_exporter.training import Fitted, Options

CARD = "CARD.md"


@dataclass(frozen=True)
class Measured:
    """What was found out about a model. agreement: where it has labels and was trained. cost: of a raster role.

    bound, latents: of test images through the exported graphs, where they give a bound, or the moments of latents.
    """

    evaluations: Sequence[Evaluation]
    agreement: Agreement | None
    cost: SamplingCost | None
    bound: Likelihood | None = None
    latents: Latents | None = None


def provenance(recipe: Recipe, options: Options, model: ImageModel, fitted: Fitted | None) -> dict[str, str]:
    """What made a bundle, for the manifest. machine: where it was trained, in words."""
    versions = {
        f"version.{name}": importlib.metadata.version(name) for name in ("ancestral", "torch", "lightning", "onnx")
    }
    trained = {}
    if fitted:
        trained = {
            "best_epoch": str(fitted.best_epoch),
            "training_seconds": f"{fitted.seconds:.1f}",
            "machine": fitted.machine,
            "torch_of_training": fitted.torch,
        }
    return {
        "recipe": recipe.name,
        "settings": json.dumps(recipe.settings(), sort_keys=True),
        "seed": str(options.seed),
        "precision": options.precision,
        "devices": options.devices,
        "parameters": str(parameters(model)),
        "commit": commit(),
        **trained,
        **versions,
    }


def parameters(model: ImageModel) -> int:
    """How many numbers a model has learned."""
    return sum(parameter.numel() for parameter in model.parameters())


def commit() -> str:
    """The commit of this source tree, with "+" when it has changes, or "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # an installed package may lie inside somebody else's repository
        return "unknown"
    try:
        head = _git(root, "rev-parse", "HEAD").strip()
        return head + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True, timeout=10
    ).stdout


def likelihood_word(likelihood: int) -> str:
    return "upper bound (negative ELBO)" if likelihood == bundle_pb2.LIKELIHOOD_LOWER_BOUND else "exact"


def card(
    recipe: Recipe,
    model: ImageModel,
    data_text: str,
    binarisation: str,
    measured: Measured,
    fitted: Fitted | None,
    made: dict[str, str],
) -> str:
    """The Markdown text."""
    shape = model.image
    lines = [
        f"# {recipe.name}",
        "",
        f"A {recipe.description}. Family: {model.family}; {parameters(model):,} parameters"
        + (f"; {model.latent_size} latent dimensions." if model.latent_size else "."),
        "",
        "![samples](" + SAMPLES + ")",
        "",
        _caption(model) if fitted else "**Untrained**: exported with its initial weights (`--epochs 0`).",
        "",
        "## Data",
        "",
        f"{data_text}. Images of {shape.height}×{shape.width}×{shape.channels}, {shape.levels} levels. "
        f"Binarisation: {binarisation}.",
        "",
        "## Likelihood" if model.likelihood else "## Figures",
        "",
        *_figures(measured, recipe),
        "",
        *_classification(measured.evaluations),
        *_latents(measured.latents),
        *_labels(model, measured.agreement),
        *_sampling(measured),
        "## Recipe",
        "",
        "```json",
        json.dumps(recipe.settings() | {"references": None}, indent=2, ensure_ascii=False).replace(
            ',\n  "references": null', ""
        ),
        "```",
        "",
        f"Seed {made['seed']}, precision {made['precision']}, devices {made['devices']}.",
    ]
    if fitted:
        lines += [
            f"Validated {len(fitted.history)} times; the averaged weights of epoch {fitted.best_epoch}, the best on "
            f"validation, are exported. Trained for {fitted.seconds:.0f} s.",
            "",
            f"![training curve]({CURVE})",
            "",
            f"Every figure of the training: [{METRICS}]({METRICS}).",
        ]
    versions = ", ".join(f"{key[8:]} {value}" for key, value in made.items() if key.startswith("version."))
    return "\n".join([*lines, "", f"Made at commit {made['commit']} with {versions}.", ""])


def _caption(model: ImageModel) -> str:
    role = sample_role(model)
    cold = role is not None and temperature_of(role) == 0
    how = "temperature 0: z from the prior, then the most likely value of each pixel" if cold else "temperature 1"
    classes = f"; one column for each of the {model.label_count} classes" if model.label_count else ""
    return f"Drawn by the exported graph with seed 0 at {how}{classes}."


def _labels(model: ImageModel, agreement: Agreement | None) -> list[str]:
    """The section on classes, if the model has any."""
    if not model.label_count:
        return []
    inputs = [spec for graph in model.graphs() for role in graph_roles(graph) if role.name == "score"
              for spec in role.inputs]  # fmt: skip
    given = any(spec.meaning == bundle_pb2.MEANING_LABEL for spec in inputs)
    which = "samples are of it, and the likelihoods are given it" if given else "samples are of it; no likelihood is"
    lines = ["## Classes", "", f"Conditioned on a label, 0 to {model.label_count - 1}: {which}."]
    if agreement:
        lines.append(
            f"Of {agreement.samples} samples drawn at temperature 1, {agreement.share:.1%} are what their label says "
            f"by five nearest neighbours among the {agreement.among} images (chance: {1 / model.label_count:.0%}), "
            f"which get {agreement.accuracy:.1%} of the real test images right."
        )
    return [*lines, ""]


def _classification(evaluations: Sequence[Evaluation]) -> list[str]:
    """The section on what the model takes images for, if it says so itself."""
    if not evaluations or not {"error", "label_nats"} <= evaluations[0].terms.keys():
        return []
    rows = [
        f"| {found.split}, {found.images} images | {found.terms['error']:.2%} | {found.terms['label_nats']:.4f} |"
        for found in evaluations
    ]
    return ["## Classification", "", "| | wrong | −log p(class), nats |", "|---|---|---|", *rows, ""]


def _sampling(measured: Measured) -> list[str]:
    """The section on what a sample costs, beside what the model is worth, if it samples pixel by pixel."""
    cost = measured.cost
    if cost is None:
        return []
    worth = ""
    if measured.evaluations and measured.evaluations[-1].has_likelihood:
        test = measured.evaluations[-1]
        worth = f"{test.bits_per_dim:.4f} bits/dim ({test.nats:.2f} nats/image) on the {test.split} images are had for "
    parts = {name: f"{count / 1e6:.2f}" for name, count in cost.multiply_adds.items()}
    lines = [
        "## Cost of a sample",
        "",
        f"{worth}{sum(cost.multiply_adds.values()) / 1e6:.2f} million multiply-adds per exact sample, as many as one "
        f"parallel pass takes. In millions: {', '.join(f'{name} {count}' for name, count in parts.items())}.",
        "",
        "| images at once | sampling, ms/image | parallel pass (score), ms/image | ratio |",
        "|---|---|---|---|",
    ]
    for timing in cost.timings:
        figures = (f"{1000 * timing.sample_s:.3g}", f"{1000 * timing.pass_s:.3g}", f"{timing.ratio:.1f}")
        lines.append(f"| {timing.images} | {' | '.join(figures)} |")
    return [*lines, "", f"Measured with onnxruntime on the exporting machine, which has {cost.cores} cores.", ""]


def _latents(latents: Latents | None) -> list[str]:
    """The section on what each latent tells, if the model's encoder gives a mean and a variance."""
    if latents is None or latents.divergences is None:
        return []
    divergences = latents.divergences
    order = sorted(range(len(divergences)), key=lambda i: -divergences[i])
    return [
        "## Latents",
        "",
        f"{latents.active} of {len(order)} are active: the variance of their posterior mean over {latents.images} test "
        f"images is above {ACTIVE_VARIANCE} (Burda et al. 2016). KL(q(z|x) ‖ p(z)) of each, nats, the most telling "
        f"first, {sum(divergences):.2f} in all:",
        "",
        ", ".join(f"{i}: {divergences[i]:.3f}" for i in order) + ".",
        "",
    ]


def _figures(measured: Measured, recipe: Recipe) -> list[str]:
    evaluations, bound = measured.evaluations, measured.bound
    if not evaluations:
        return ["Not measured: there were no data."]
    if not evaluations[0].has_likelihood:
        figure = evaluations[0].figure
        lines = ["**This family has no likelihood**: nothing here can be held against nats or bits/dim of others.", ""]
        lines += [f"| | {figure.name.replace('_', ' ')}, {figure.unit} |", "|---|---|"]
        return lines + [
            f"| {found.split}, {found.images} images | {found.terms[figure.name]:.4f} |" for found in evaluations
        ]
    lines = ["| | nats/image | bits/dim | |", "|---|---|---|---|"]
    for found in evaluations:
        how = likelihood_word(found.likelihood) + (
            f", one draw of z, mean over {found.draws}" if found.draws > 1 else ""
        )
        bits = f"{found.bits_per_dim:.4f}" if found.discrete else "–"
        if not found.discrete:
            how += "; a density"
        lines.append(f"| {found.split}, {found.images} images | {found.nats:.2f} | {bits} | {how} |")
    if bound is not None and bound.bound_nats is not None:
        bits = "–" if bound.bound_bits_per_dim is None else f"{bound.bound_bits_per_dim:.4f}"
        how = f"upper bound, importance-weighted, k = {bound.draws}"
        lines.append(f"| test, the first {bound.images} images | {bound.bound_nats:.2f} | {bits} | {how} |")
    if evaluations[0].discrete:
        lines += [f"| {reference.text} | | {reference.bits_per_dim:.4g} | |" for reference in recipe.references]
    else:
        lines += ["", "The figures are of a density over intensities scaled to [0,1]: they may be negative, and are not"
                  " comparable with any discrete model's."]  # fmt: skip
    return lines
