"""What a manifest may hold: every limit, the value at it and the value beyond."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

import toybundle
from ancestral.bundle import rules
from ancestral.v1 import bundle_pb2, tensor_pb2

ZOO = Path(__file__).parents[3] / "exporter" / "zoo"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bundle_pb2.Bundle:
    return read(toybundle.write(tmp_path_factory.mktemp("models")))


def read(folder: Path) -> bundle_pb2.Bundle:
    return json_format.Parse((folder / "bundle.json").read_text(), bundle_pb2.Bundle())


def changed(good: bundle_pb2.Bundle, where: str, value: Any) -> bundle_pb2.Bundle:
    """The manifest with another value at a path such as `roles.0.name`, as JSON would bring it."""
    document = json_format.MessageToDict(good, preserving_proto_field_name=True)
    *parents, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    inside: Any = document
    for key in parents:
        inside = inside[key] if isinstance(key, int) else inside.setdefault(key, {})
    inside[last] = value
    return json_format.ParseDict(json.loads(json.dumps(document)), bundle_pb2.Bundle())


def test_good_manifests_have_no_problems(good: bundle_pb2.Bundle) -> None:
    assert list(rules.problems(good)) == []
    zoo = [path.parent for path in ZOO.glob("*/*/bundle.json")]
    assert zoo
    for folder in zoo:
        assert list(rules.problems(read(folder))) == []


@pytest.mark.parametrize(
    ("where", "value", "problem"),
    [
        ("name", "Tally", "name 'Tally' does not match"),
        ("version", 0, "version is 0, must be 1 to 9223372036854775807"),
        ("family", "f" * 129, "family has 129 characters, must have at most 128"),
        ("description", "d" * 4097, "description has 4097 characters, must have at most 4096"),
        ("family", "one\ntwo", "family 'one\\ntwo' holds U+000A, must hold no control characters"),
        ("description", "\x1b[31mred", "holds U+001B"),
        ("description", "a\u2028b", "holds U+2028"),
        ("description", "a\u202eb", "holds U+202E"),
        ("image.height", 0, "image.height is 0, must be 1 to"),
        ("image.width", -3, "image.width is -3"),
        ("image.channels", 2**31 - 1, "image.channels is 2147483647"),
        ("image.height", 2**29, "image.shape [536870912, 3, 1] makes 1610612736 bytes, must make at most 1073741824"),
        ("image.levels", 1, "image.levels is 1, must be 2 to 256"),
        ("image.levels", 257, "image.levels is 257, must be 2 to 256"),
        ("latent_size", -1, "latent_size is -1, must be 0 to"),
        ("latent_size", 3, "MEANING_MEAN must be DATA_TYPE_FLOAT32 [B]+[3] (latent_size 3), tensor 'code' is"),
        ("label_count", 2**31 - 1, "label_count is 2147483647, must be 0 to 1000000"),
        ("label_count", 10, "label_count is 10, and no role takes a label"),
        ("roles", [], "has no roles"),
        ("roles", [{"name": "r"}] * 65, "roles has 65 entries, must have at most 64"),
        ("roles.0.name", "", "roles[0].name is empty"),
        ("roles.0.name", "en\r\ncode", "roles[0].name 'en\\r\\ncode' holds U+000D"),
        ("roles.0.name", "score", "role 'score' is there twice"),
        ("roles.0.name", "n" * 129, "roles[0].name has 129 characters"),
        ("roles.0.program", 7, "roles[0].program 7 is unknown"),
        ("roles.0.graph", "other.onnx", "role encode: graph 'other.onnx' is not among its files"),
        ("roles.0.inputs.0.name", "", "roles[0].inputs[0].name is empty"),
        ("roles.0.inputs.0.meaning", 99, "roles[0].inputs[0].meaning 99 is unknown"),
        ("roles.0.inputs.0.meaning", 0, "roles[0].inputs[0].meaning 0 is unknown"),
        ("roles.0.inputs.0.dtype", 99, "roles[0].inputs[0].dtype 99 is unknown"),
        ("roles.0.inputs.0.dtype", "DATA_TYPE_FLOAT32", "MEANING_IMAGE must be DATA_TYPE_UINT8 [B]+[4, 3, 1]"),
        ("roles.0.inputs.0.shape", [4, 3, 0], "roles[0].inputs[0].shape is [4, 3, 0], each must be at least 1"),
        ("roles.0.outputs.0.shape", [1] * 9, "roles[0].outputs[0].shape has 9 axes, must have at most 8"),
        ("roles.0.outputs.0.shape", [2**40], "makes 4398046511104 bytes, must make at most"),
        ("roles.2.states.0.shape", [-1], "roles[2].states[0].shape is [-1]"),
        ("roles.2.states.0.input", "", "roles[2].states[0].input is empty"),
        ("roles.2.states.0.rows_back", 0, "roles[2].states[0].rows_back is 0, must be 1 to 3"),
        ("roles.2.states.0.rows_back", -1, "roles[2].states[0].rows_back is -1, must be 1 to 3"),
        ("roles.2.states.0.rows_back", 4, "roles[2].states[0].rows_back is 4, must be 1 to 3"),
        ("roles.2.states.0.rows_back", 2, "schema is 1, and a state with rows_back above 1 needs schema 2"),
        ("roles.0.states", [{"input": "a", "output": "b"}], "role encode: only a raster program has states, it has 1"),
        ("roles.2.name", "decode", "role decode: only sample can be a raster program"),
        ("files.0.path", "/etc/passwd", "files[0].path '/etc/passwd' leads out of the bundle"),
        ("files.0.path", "a/../../b", "leads out of the bundle"),
        ("files.0.path", "x" * 256, "has a name of more than 255 bytes"),
        ("files.0.sha256", "E3", "files[0].sha256 'E3' is not 64 lower-case hexadecimal digits"),
        ("files.0.size_bytes", -1, "files[0].size_bytes is -1"),
        ("golden.path", "none.npz", "golden data 'none.npz' is not among its files"),
        ("golden.tolerance", "NaN", "golden.tolerance is nan, must be finite and at least 0"),
        ("golden.tolerance", "Infinity", "golden.tolerance is inf"),
        ("golden.pixel_tolerance", 1, "golden.pixel_tolerance is 1.0, must be finite and at least 0 and below 1"),
        ("metrics", [{"name": "n", "value": "NaN"}], "metrics[0].value is nan, must be finite"),
        ("metrics", [{"name": "n", "value": "-Infinity"}], "metrics[0].value is -inf, must be finite"),
        ("metrics", [{"name": "n\n", "value": 1}], "metrics[0].name 'n\\n' holds U+000A"),
        ("metrics", [{"name": "n", "value": 1}] * 1025, "metrics has 1025 entries, must have at most 1024"),
        ("provenance.seed", "x" * 16385, "provenance['seed'] has 16385 characters, must have at most 16384"),
        ("training_moments.images", 0, "training_moments.images is 0, must be 1 to"),
        ("training_moments.intensity_mean", 1.01, "training_moments.intensity_mean is 1.01, must be 0 to 1"),
        ("training_moments.intensity_mean", "NaN", "training_moments.intensity_mean is nan, must be 0 to 1"),
        ("training_moments.intensity_std", -1, "training_moments.intensity_std is -1.0, must be finite and at least 0"),
        ("training_moments.latent_mean", [0.0, "Infinity"], "training_moments.latent_mean[1] is inf, must be finite"),
        ("training_moments.latent_std", [0.0, -0.5], "training_moments.latent_std[1] is -0.5, must be finite and at"),
        (
            "training_moments.latent_std",
            [0.0] * 4097,
            "training_moments.latent_std has 4097 entries, must have at most",
        ),
        (
            "training_moments.latent_std",
            [1.0],
            "training_moments has 2 entries of latent_mean and 1 of latent_std, must",
        ),
        ("provenance.seed", "\x00", "provenance['seed'] '\\x00' holds U+0000"),
    ],
)
def test_what_is_beyond_a_limit_is_named_with_its_value(
    good: bundle_pb2.Bundle, where: str, value: Any, problem: str
) -> None:
    found = list(rules.problems(changed(good, where, value)))
    assert any(problem in line for line in found), found
    assert all(len(line) < 400 and line.isprintable() for line in found)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("version", 2**63 - 1),
        ("family", "f" * 128),
        ("family", ""),
        ("description", "d" * 4096),
        ("description", "one\r\ntwo\tthree\n"),
        ("description", "Größe 3 × 4, 数字\u00a0🙂"),
        ("image.levels", 256),
        ("roles.0.outputs", []),
        ("roles.2.states.0.rows_back", 1),
        ("roles.2.states.0.rows_back", 3),
        ("files.0.path", "x" * 255),
        ("golden.pixel_tolerance", 0.999),
        ("metrics", [{"name": "n", "value": -1e308, "unit": "", "split": ""}] * 1024),
        ("training_moments", {"images": 1, "intensity_mean": 1.0}),
        ("provenance.pip", "numpy 2\n\tonnx 1\r\n"),
    ],
)
def test_what_is_within_the_limits_is_fine(good: bundle_pb2.Bundle, where: str, value: Any) -> None:
    assert list(rules.limits(changed(good, where, value))) == []


def test_the_rows_that_are_kept_of_a_state_are_bounded_together(good: bundle_pb2.Bundle) -> None:
    manifest = bundle_pb2.Bundle()
    manifest.CopyFrom(good)
    (state,) = manifest.roles[2].states
    state.shape[:], state.rows_back = [2**27], 2
    assert list(rules.limits(manifest)) == []
    state.rows_back = 3
    assert list(rules.limits(manifest)) == [
        "roles[2].states[0].shape [134217728], of 3 rows, makes 1610612736 bytes, must make at most 1073741824"
    ]


def test_a_schema_is_needed_that_has_all_that_is_used(good: bundle_pb2.Bundle) -> None:
    """An older server would read the state one row back and paint something else."""
    manifest = bundle_pb2.Bundle()
    manifest.CopyFrom(good)
    assert rules.least_schema(manifest) == 1
    (state,) = manifest.roles[2].states
    for back in (1, 2):
        state.rows_back = back
        assert rules.least_schema(manifest) == back
    assert any("needs schema 2" in problem for problem in rules.problems(manifest))
    manifest.schema = 2
    assert list(rules.problems(manifest)) == []
    # A manifest may be of a newer schema than it needs.
    state.ClearField("rows_back")
    assert list(rules.problems(manifest)) == []


def test_log_weights_need_noise_and_moments_of_pixels_come_in_pairs(good: bundle_pb2.Bundle) -> None:
    manifest = bundle_pb2.Bundle()
    manifest.CopyFrom(good)
    encode, score = manifest.roles[0], manifest.roles[1]
    weight, real = bundle_pb2.MEANING_LOG_WEIGHT, tensor_pb2.DATA_TYPE_FLOAT32
    score.outputs[0].meaning = weight
    assert any("needs schema 2" in problem for problem in rules.problems(manifest))
    manifest.schema = 2
    needs = "role score: gives MEANING_LOG_WEIGHT, so it must take MEANING_UNIFORMS, and its likelihood be LIKELIHOOD_"
    assert list(rules.problems(manifest)) == [f"{needs}LOWER_BOUND"]
    score.likelihood = bundle_pb2.LIKELIHOOD_LOWER_BOUND
    assert list(rules.problems(manifest)) == [f"{needs}LOWER_BOUND"]
    score.inputs.add(name="uniforms", meaning=bundle_pb2.MEANING_UNIFORMS, dtype=real, shape=[2])
    assert list(rules.problems(manifest)) == []
    encode.outputs.add(name="mean", meaning=bundle_pb2.MEANING_PIXEL_MEAN, dtype=real, shape=[4, 3, 1])
    assert list(rules.problems(manifest)) == [
        "role encode: MEANING_PIXEL_MEAN and MEANING_PIXEL_VARIANCE come together"
    ]
    encode.outputs.add(name="variance", meaning=bundle_pb2.MEANING_PIXEL_VARIANCE, dtype=real, shape=[4, 3])
    assert any("MEANING_PIXEL_VARIANCE must be" in problem for problem in rules.problems(manifest))


VARIANT = {
    "code": "golden.npz",
    "target": "sm_90",
    "entry": "paint_row",
    "samples": 8,
    "threads": 256,
    "shared_bytes": 204800,
    "scratch_bytes": 4096,
}
KERNEL = {"convention": 1, "weights": "golden.npz", "state_bytes": 2**30, "variants": [VARIANT]}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        # Of a newer exporter: the graph serves.
        ({"convention": 2}, None),
        ({"convention": 0}, "roles[2].kernel.convention is 0, must be 1 to 2147483647"),
        ({"weights": "none.f32"}, "role sample: kernel: 'none.f32' is not among its files"),
        ({"state_bytes": 2**30 + 16}, "roles[2].kernel.state_bytes is 1073741840, must be 0 to 1073741824"),
        ({"state_bytes": 20}, "roles[2].kernel.state_bytes is 20, must be a multiple of 16"),
        ({"variants": []}, "role sample: kernel: has no variants"),
        ({"variants": [VARIANT] * 2}, "the variant of 8 samples for sm_90 is there 2 times"),
        ({"variants": [VARIANT, {**VARIANT, "samples": 4}]}, None),
        ({"variants": [VARIANT, {**VARIANT, "target": "compute_120"}]}, None),
        ({"variants": [{**VARIANT, "samples": i + 1} for i in range(256)]}, None),
        ({"variants": [VARIANT] * 257}, "roles[2].kernel.variants has 257 entries, must have at most 256"),
        ({"code": "none.cubin"}, "role sample: kernel: 'none.cubin' is not among its files"),
        ({"target": "sm_9"}, "roles[2].kernel.variants[0].target 'sm_9' does not match (sm|compute)_"),
        ({"target": "gfx90a"}, "target 'gfx90a' does not match"),
        ({"entry": ""}, "roles[2].kernel.variants[0].entry '' does not match"),
        ({"entry": "paint row"}, "entry 'paint row' does not match"),
        ({"entry": "p" * 129}, "does not match"),
        ({"samples": 0}, "roles[2].kernel.variants[0].samples is 0, must be 1 to 1024"),
        ({"threads": 1056}, "roles[2].kernel.variants[0].threads is 1056, must be 32 to 1024"),
        ({"threads": 100}, "roles[2].kernel.variants[0].threads is 100, must be a multiple of 32"),
        ({"shared_bytes": 2**20 + 1}, "roles[2].kernel.variants[0].shared_bytes is 1048577, must be 0 to 1048576"),
        ({"scratch_bytes": -16}, "roles[2].kernel.variants[0].scratch_bytes is -16, must be 0 to 1099511627776"),
        ({"scratch_bytes": 8}, "roles[2].kernel.variants[0].scratch_bytes is 8, must be a multiple of 16"),
    ],
)
def test_what_a_kernel_may_be(good: bundle_pb2.Bundle, changes: dict[str, Any], problem: str | None) -> None:
    of_variant = {key: value for key, value in changes.items() if key in VARIANT}
    of_kernel = {key: value for key, value in changes.items() if key in KERNEL}
    kernel = {**KERNEL, "variants": [{**VARIANT, **of_variant}], **of_kernel}
    found = list(rules.problems(changed(good, "roles.2.kernel", kernel)))
    assert found == [] if problem is None else any(problem in line for line in found), found


def test_only_a_raster_program_has_a_kernel_and_it_needs_no_newer_schema(good: bundle_pb2.Bundle) -> None:
    assert list(rules.problems(changed(good, "roles.0.kernel", KERNEL))) == [
        "role encode: kernel: only a raster program has one"
    ]
    assert rules.least_schema(changed(good, "roles.2.kernel", KERNEL)) == rules.least_schema(good) == 1
