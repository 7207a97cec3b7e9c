"""Which models panels offer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ancestral_client import Limits, Metric, Model
from ancestral_studio import served

LIMITS = Limits(max_sample_count=4096, max_images=4096, max_temperature=10, max_message_bytes=1 << 24)
MODEL = Model(
    name="m",
    version=1,
    serving=True,
    state="serving",
    reason="",
    device="cpu",
    family="vae",
    description="",
    image_shape=(8, 8, 1),
    levels=17,
    latent_size=2,
    label_count=0,
    roles=("sample", "encode", "decode", "score"),
    metrics=(),
    limits=LIMITS,
)
PAINTER = replace(MODEL, latent_size=0, roles=("sample", "score"))


def test_the_newest_version_that_serves_is_offered_if_it_can_be_shown() -> None:
    found = served.offered(
        [
            replace(MODEL, version=2),
            MODEL,
            replace(MODEL, version=3, serving=False),
            replace(MODEL, name="four", image_shape=(8, 8, 4)),
            replace(MODEL, name="broken", serving=False, image_shape=(0, 0, 0)),
            replace(MODEL, name="a"),
        ]
    )
    assert [(model.name, model.version) for model in found] == [("a", 1), ("m", 2)]


@pytest.mark.parametrize(
    ("model", "completes", "has_latents", "has_plane"),
    [
        (MODEL, False, True, True),
        (PAINTER, True, False, False),
        (replace(MODEL, latent_size=1), False, True, False),
        (replace(MODEL, roles=("decode",)), False, False, True),
        (replace(PAINTER, roles=("score",)), False, False, False),
        # Too large to be sent back by a page.
        (replace(PAINTER, image_shape=(1024, 1024, 1)), False, False, False),
        (replace(MODEL, image_shape=(1024, 1024, 3)), False, False, True),
    ],
)
def test_what_models_are_offered_for(model: Model, completes: bool, has_latents: bool, has_plane: bool) -> None:
    assert served.completes(model) is completes
    assert served.has_latents(model) is has_latents
    assert served.has_plane(model) is has_plane
    assert served.can("sample", "score")(model) is ({"sample", "score"} <= set(model.roles))


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (MODEL, 64),
        (replace(MODEL, limits=replace(LIMITS, max_sample_count=5)), 5),
        (replace(MODEL, limits=None), 64),
        (replace(MODEL, image_shape=(512, 512, 3)), 5),
        (replace(MODEL, image_shape=(4096, 4096, 3)), 1),
    ],
)
def test_a_grid_is_no_larger_than_a_phone_loads(model: Model, most: int) -> None:
    assert served.most_samples(model) == most


def test_a_line_says_what_a_model_is() -> None:
    bound = Metric("bits_per_dim", 2.4, "bits/dim", "test", exact=False)
    assert served.about(replace(MODEL, metrics=(bound,))) == (
        "vae version 1 on cpu: 8×8 grey, 17 levels, 2 latents, at most 2.400 bits/dim on test images"
    )
    assert served.about(replace(PAINTER, family="x\ny", label_count=3, image_shape=(4, 6, 3))) == (
        "x\\ny version 1 on cpu: 4×6 colour, 17 levels, 3 classes"
    )


def test_classes_have_their_names_or_their_numbers() -> None:
    assert served.class_options(replace(MODEL, label_count=2)) == {0: "0", 1: "1"}
    assert served.class_options(replace(MODEL, label_count=2, class_names=("cat", "d\x1bog"))) == {
        0: "cat",
        1: "d\\x1bog",
    }
    assert served.class_options(MODEL) == {}


def test_likelihoods_read_as_they_are_written() -> None:
    assert (served.nats(-85.26), served.nats(None)) == ("−85.3 nats", "")
