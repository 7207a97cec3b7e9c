"""What can be trained: one TOML file a recipe. Those in this folder ship with the package.

recipe     the sections of a file as dataclasses; nothing else in the exporter holds a hyper-parameter
reading    from a name, a file and `--set` to a checked recipe
"""

from ancestral_exporter.recipes.idle import refuse_idle
from ancestral_exporter.recipes.reading import Summary, data_from, find, from_settings, read_toml, section, shipped
from ancestral_exporter.recipes.recipe import Recipe, Reference, Schedule

__all__ = [
    "Recipe",
    "Reference",
    "Schedule",
    "Summary",
    "data_from",
    "find",
    "from_settings",
    "read_toml",
    "refuse_idle",
    "section",
    "shipped",
]
