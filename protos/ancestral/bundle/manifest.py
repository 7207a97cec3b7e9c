"""Reading bundle.json: one parser for the exporter, which verifies it, and for the server, which trusts nothing."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format

from ancestral.bundle.rules import SCHEMA
from ancestral.v1 import bundle_pb2

# The file of a bundle that holds its manifest.
MANIFEST = "bundle.json"
# Fields of a role that were there once: they change nothing, and older bundles have them.
_RETIRED = frozenset({"lean"})


class NoManifest(ValueError):
    """A text is no manifest; the message is a line that says why."""


def parse(content: bytes, *, strict: bool = False) -> bundle_pb2.Bundle:
    """The manifest that a file holds. Raises NoManifest where it is none, or newer than what is known here.

    strict: fields that no schema has are an error too. A server ignores them: they may be a newer exporter's.
    """
    try:
        document = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise NoManifest(f"is not UTF-8: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise NoManifest(f"is not JSON (truncated?): {error}") from error
    if not isinstance(document, dict):
        raise NoManifest("is not a JSON object")
    # Before the rest is parsed: a newer schema may hold fields that cannot be known here.
    schema = document.get("schema", 0)
    if not isinstance(schema, int) or schema < 1:
        raise NoManifest(f"schema is {schema!r}, must be 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise NoManifest(f"schema {schema} is newer than the {SCHEMA} that is known here: update Ancestral")
    try:
        return json_format.ParseDict(_without_retired(document), bundle_pb2.Bundle(), ignore_unknown_fields=not strict)
    except json_format.ParseError as error:
        raise NoManifest(f"is not a bundle manifest: {error}") from error


def _without_retired(document: dict[str, Any]) -> dict[str, Any]:
    roles = document.get("roles")
    if isinstance(roles, list):
        document["roles"] = [
            {field: value for field, value in role.items() if field not in _RETIRED} if isinstance(role, dict) else role
            for role in roles
        ]
    return document
