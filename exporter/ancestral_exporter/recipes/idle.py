"""Options of the command that would change nothing for a recipe are refused: whoever typed one expects something."""

from __future__ import annotations

from collections.abc import Set

from ancestral_exporter.data import SOURCES
from ancestral_exporter.errors import UsageError
from ancestral_exporter.models.autoregressive import Autoregressive
from ancestral_exporter.recipes.recipe import Recipe


def refuse_idle(recipe: Recipe, given: Set[str]) -> None:
    """Raises UsageError where one of the options that were `given`, by name, would change nothing for the recipe."""
    source = recipe.data.source
    if "data" in given and source in SOURCES and not SOURCES[source].needs_path:
        raise UsageError(f"--data has no effect on {recipe.name}: its data, the {source}, are included; leave it out")
    if "kernels" in given and not issubclass(recipe.model_type, Autoregressive):
        raise UsageError(f"--kernels has no effect on {recipe.name}: no role of it paints row by row; leave it out")
    for name in ("precision", "devices", "minutes", "compile_"):
        option = name.rstrip("_")
        if name in given and not recipe.schedule.epochs:
            raise UsageError(f"--{option} has no effect with 0 epochs, where nothing is trained; leave it out")
