"""Reading bundle.json: what is none, what is newer, what was there once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ancestral.bundle import manifest, rules
from ancestral.bundle.manifest import NoManifest, parse
from ancestral.v1 import bundle_pb2, tensor_pb2

OLD = Path(__file__).parents[2] / "bundles" / "vae-0.2.0" / "1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "is not UTF-8"),
        (b'{"schema": 1', "is not JSON (truncated?)"),
        (b'{"schema": 1' + b"1" * 5000 + b"}", "is not JSON (truncated?)"),
        (b"[" * 100_000, "is not JSON (truncated?)"),
        (b"[]", "is not a JSON object"),
        (b"{}", "schema is 0, must be 1 to 2"),
        (b'{"schema": "1"}', "schema is '1', must be 1 to 2"),
        (b'{"schema": 3, "new": 1}', "schema 3 is newer than the 2 that is known here: update Ancestral"),
        (b'{"schema": 1, "roles": 3}', "is not a bundle manifest"),
        (b'{"schema": 1, "roles": [3]}', "is not a bundle manifest"),
    ],
)
def test_what_is_no_manifest(content: bytes, problem: str) -> None:
    for strict in (False, True):
        with pytest.raises(NoManifest) as error:
            parse(content, strict=strict)
        assert str(error.value).startswith(problem)


def test_unknown_fields_are_an_error_where_the_reader_is_strict() -> None:
    assert parse(b'{"schema": 1, "nmae": "a"}').schema == 1
    with pytest.raises(NoManifest, match="nmae"):
        parse(b'{"schema": 1, "nmae": "a"}', strict=True)


def test_a_field_that_was_there_once_changes_nothing() -> None:
    content = (OLD / manifest.MANIFEST).read_bytes()
    assert any("lean" in role for role in json.loads(content)["roles"])
    read = parse(content, strict=True)
    assert read == parse(content)
    assert list(rules.problems(read)) == []
    assert rules.least_schema(read) == 1


@pytest.mark.parametrize(
    ("meaning", "schema"),
    [("IMAGE", 1), ("LOGITS", 1), ("LOG_WEIGHT", 2), ("PIXEL_MEAN", 2), ("PIXEL_VARIANCE", 2)],
)
def test_the_schema_is_the_lowest_that_its_readers_need(meaning: str, schema: int) -> None:
    value: Any = bundle_pb2.Meaning.Value(f"MEANING_{meaning}")
    output = bundle_pb2.TensorSpec(name="y", meaning=value, dtype=tensor_pb2.DATA_TYPE_FLOAT32)
    assert rules.least_schema(bundle_pb2.Bundle(roles=[bundle_pb2.Role(outputs=[output])])) == schema
