"""Names of models in the protocol: NAME.ROLE is a role of a model, NAME its main one."""

from __future__ import annotations

from ancestral.text import short
from ancestral_server.catalog import MAX_VERSION, Catalog, ModelVersion
from ancestral_server.errors import InvalidArgument, NotFound
from ancestral_server.rpc import convert

# A protocol of tensors in and tensors out is asked for features first; a model without an encoder draws images.
MAIN_ROLES = ("encode", "sample")
# How long the text of a version may be before it is read as a number, which takes time by the square of its length.
MOST_DIGITS = 64


def find(catalog: Catalog, name: str, version: str, *, fields: tuple[str, str]) -> tuple[ModelVersion, str]:
    """The model version that answers and the role that is meant; `fields` are the paths of name and version in the
    request. NotFound or Unavailable if none does.
    """
    if not version:
        # Nearly every call finds it like this; the rest is for the others, and says what is wrong.
        model = catalog.get(name, 0)
        if model is not None:
            return model, main_role(model)
        base, _, role = name.rpartition(".")
        model = catalog.get(base, 0)
        if model is not None and role in model.endpoints and name not in catalog:
            return model, role
    return _find(catalog, name, version, *fields)


def _find(catalog: Catalog, name: str, version: str, field: str, version_field: str) -> tuple[ModelVersion, str]:
    base, role = split(catalog, convert.model_name(field, name))
    model = catalog.find(base, _number(version_field, version))
    if role is None:
        return model, main_role(model)
    if role not in model.endpoints:
        there_are = ", ".join(f"{base}.{known}" for known in model.endpoints)
        raise NotFound(name, f"no model {name!r}: {base} (version {model.version}) is served as {base}, {there_are}")
    return model, role


def split(catalog: Catalog, name: str) -> tuple[str, str | None]:
    """The name of a model and a role of it, None where none is named. Names may have dots, so whole names go first."""
    if name not in catalog:
        base, _, role = name.rpartition(".")
        if base in catalog:
            return base, role
    return name, None


def main_role(model: ModelVersion) -> str:
    return next((role for role in MAIN_ROLES if role in model.endpoints), next(iter(model.endpoints)))


def serving(catalog: Catalog, name: str) -> list[tuple[ModelVersion, str]]:
    """The versions that serve what a name means, ascending, and the role that it means of each."""
    base, role = split(catalog, name)
    versions = catalog.serving(base)
    if role is None:
        return [(model, main_role(model)) for model in versions]
    return [(model, role) for model in versions if role in model.endpoints]


def _number(field: str, version: str) -> int:
    """0 for "", the highest that is served."""
    if not version:
        return 0
    # So long that leading zeros may stand before it, and never so long that reading it takes time.
    plain = version.isascii() and version.isdecimal() and len(version) <= MOST_DIGITS
    if not (plain and 1 <= int(version) <= MAX_VERSION):
        raise InvalidArgument(
            field, f'is {short(version)!r}, must be "" (the highest that is served) or a version, 1 to {MAX_VERSION}'
        )
    return int(version)
