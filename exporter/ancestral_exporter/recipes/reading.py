"""From a recipe's name or file, and what `--set` says, to a recipe whose every value is checked."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ancestral_exporter.data.settings import DataSettings
from ancestral_exporter.errors import UsageError, nearest
from ancestral_exporter.models import families
from ancestral_exporter.recipes.recipe import Recipe, Reference, Schedule

SUFFIX = ".toml"
_SECTIONS = {"data": DataSettings, "schedule": Schedule}
_TEXTS = ("name", "description", "family")
_KEYS = (*_TEXTS, "data", "model", "schedule", "references")


@dataclass(frozen=True)
class Summary:
    """What a list of recipes shows, read without importing the family."""

    name: str
    description: str
    family: str
    source: str
    epochs: int


def shipped() -> list[Summary]:
    """The recipes that come with the package, by name."""
    found = []
    for path in sorted(Path(str(resources.files(__package__))).glob(f"*{SUFFIX}")):
        text = tomllib.loads(path.read_text(encoding="utf-8"))
        found.append(
            Summary(path.stem, text["description"], text["family"], text["data"]["source"], text["schedule"]["epochs"])
        )
    return found


def find(name: str, settings: Iterable[str] = ()) -> Recipe:
    """The shipped recipe of that name, or that of a file `something.toml`, with `section.key=value` of `settings`.

    Raises UsageError that names the file, the key and the value, and the nearest name where one was mistyped.
    """
    if name.endswith(SUFFIX):
        path, title = Path(name), name
    else:
        names = [summary.name for summary in shipped()]
        if name not in names:
            raise UsageError(
                f"unknown recipe {name!r}{nearest(name, names)}; there are: {', '.join(names)} (a recipe of your own "
                f"is a file that ends in {SUFFIX})"
            )
        path, title = Path(str(resources.files(__package__))) / f"{name}{SUFFIX}", name
    table = read_toml(path, title)
    for setting in settings:
        _set(table, setting)
    return _recipe(table, title, path)


def from_settings(settings: Mapping[str, Any]) -> Recipe:
    """The recipe that a bundle's provenance has in its `settings`: those of `Recipe.settings`, as JSON has them.

    Raises UsageError where they are of a family that lies in a file, or of another version of this package.
    """
    if settings.get("family_sha256"):
        raise UsageError(f"{_bundled(settings)}: its family {settings.get('family')!r} lies in a file")
    return _recipe(settings, _bundled(settings), Path())


def data_from(settings: Mapping[str, Any]) -> DataSettings:
    """The `[data]` of such settings alone, whatever the family."""
    found: DataSettings = section(settings.get("data", {}), DataSettings, _bundled(settings), "[data]")
    return found


def _bundled(settings: Mapping[str, Any]) -> str:
    return f"the bundle's recipe {settings.get('name')}"


def read_toml(path: Path, title: str) -> dict[str, Any]:
    """The table of a file. Raises UsageError that begins with the title."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a mark at the begin
    except FileNotFoundError:
        raise UsageError(f"{title}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{title}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{title}: is not TOML: {error}") from error


def _set(table: dict[str, Any], setting: str) -> None:
    """Write one `section.key=value` into the file's table; the value is TOML, or a text without quotes."""
    if setting.splitlines() != [setting][: len(setting)]:
        raise UsageError(f"--set {setting!r}: must be one line; give each KEY=VALUE a --set of its own")
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {setting}: must be KEY=VALUE, such as model.latent_size=64")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {setting}: {part} has no keys")
    table[parts[-1]] = value


def _recipe(table: Mapping[str, Any], title: str, path: Path) -> Recipe:
    _no_others(table, _KEYS, title, "the file")
    texts = {"name": path.stem, "description": path.stem} | {key: table[key] for key in _TEXTS if key in table}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise UsageError(f"{title}: {key} must be a line of text, not {value!r}")
    if "family" not in texts:
        raise UsageError(f"{title}: no family; there are: {', '.join(families.names())}")
    family = families.find(texts["family"], path.parent)
    with families.answering(texts["family"], family.model_type):
        sections = {
            key: section(table.get(key, {}), kind, title, f"[{key}]")
            for key, kind in {**_SECTIONS, "model": family.model_type.settings_type}.items()
        }
    references = table.get("references", [])
    if not isinstance(references, list):
        raise UsageError(f"{title}: references must be tables, [[references]]")
    return Recipe(
        **texts,
        **sections,
        references=tuple(section(entry, Reference, title, "[[references]]") for entry in references),
        model_type=family.model_type,
        family_sha256=family.sha256,
    )


def section(value: Any, kind: type[Any], title: str, name: str) -> Any:
    """A section's dataclass, each value checked by its annotation."""
    if not isinstance(value, dict):
        raise UsageError(f"{title}: {name} must be a table, not {value!r}")
    _no_others(value, [field.name for field in dataclasses.fields(kind)], title, name)
    for key, entry in value.items():
        if isinstance(entry, float) and not math.isfinite(entry):
            raise UsageError(f"{title}: {name} {key} = {entry}: must be a finite number")
    try:
        # JSON's arrays are tuples to a strict check; a Python list would be refused as one.
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"] if not str(part).startswith("function"))
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            raise UsageError(f"{title}: {name} needs {key}") from error
        if not key:
            raise UsageError(f"{title}: {name}: {what}") from error
        raise UsageError(f"{title}: {name} {key} = {problem['input']!r}: {what}") from error


def _no_others(table: Mapping[str, Any], known: Iterable[str], title: str, name: str) -> None:
    known = list(known)
    for key in table:
        if key not in known:
            raise UsageError(
                f"{title}: {name} has no key {key!r}{nearest(key, known)}; it has: {', '.join(known) or 'none'}"
            )
