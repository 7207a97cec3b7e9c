"""The gated PixelCNN: causal, without a blind spot, exact; and the row graph samples what the slow samplers sample."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.bundle.noise import uniforms_of_range
from ancestral.bundle.rules import rows_back
from ancestral_exporter import tiles
from ancestral_exporter.bundle.runtime import run_role
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.pixelcnn import GatedPixelCNN, PixelCNNSettings
from ancestral_exporter.models.quantise import from_levels
from ancestral_exporter.models.values import MIXTURE
from rasters import dependences, feeds_of, random_levels, raster, torch_feeds


def make_model(shape: ImageShape, *, sharpness: float = 8.0, seed: int = 0, **options: Any) -> GatedPixelCNN:
    """A random model whose pixels depend strongly on each other."""
    torch.manual_seed(seed)
    options = {"channels": 16, "vertical_layers": 4, "horizontal_layers": 3} | options
    model = GatedPixelCNN(shape, PixelCNNSettings(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head.logits") and name.endswith("bias"):
                parameter.normal_()  # no ties at the first pixel
            elif name.startswith("head.logits"):
                parameter.mul_(sharpness)
            elif "window" in name or "project" in name:
                parameter.mul_(2)
    return model


GREY = ImageShape(6, 7, 1, 4)
COLOUR = ImageShape(4, 5, 3, 5)
BINARY = ImageShape(7, 6, 1, 2)
TALL = ImageShape(13, 6, 1, 2)
DEEP = ImageShape(5, 4, 1, 256)
DEEP_COLOUR = ImageShape(4, 3, 3, 200)
VARIANTS = [
    pytest.param(BINARY, {}, id="binary"),
    pytest.param(BINARY, {"one_hot": True, "label_count": 2}, id="binary-one-hot-labels"),
    pytest.param(GREY, {"one_hot": True, "label_count": 3}, id="grey-one-hot-labels"),
    pytest.param(GREY, {"first_window": (3, 5), "first_pixels": 4, "horizontal_layers": 1}, id="grey-wide-windows"),
    pytest.param(COLOUR, {}, id="colour"),
    pytest.param(COLOUR, {"one_hot": True, "label_count": 2, "head_channels": 24}, id="colour-one-hot-labels"),
    pytest.param(TALL, {"row_dilations": (2, 4, 1), "column_dilations": (2, 4), "sharpness": 12}, id="binary-dilated"),
    pytest.param(BINARY, {"row_dilations": (1, 2, 6), "column_dilations": (5, 1, 2)}, id="binary-dilated-to-the-edge"),
    pytest.param(
        GREY,
        {"row_dilations": (2, 1), "one_hot": True, "label_count": 3, "sharpness": 12},
        id="grey-dilated-rows-labels",
    ),
    pytest.param(
        COLOUR, {"row_dilations": (1, 3), "column_dilations": (3, 1), "first_window": (3, 5)}, id="colour-dilated"
    ),
    pytest.param(DEEP, {"likelihood": MIXTURE, "label_count": 3, "sharpness": 1}, id="grey-mixture-labels"),
    pytest.param(DEEP_COLOUR, {"likelihood": MIXTURE, "mixtures": 3, "row_dilations": (2, 1)}, id="colour-mixture"),
    pytest.param(COLOUR, {"channels": 18, "one_hot": True}, id="colour-as-many-channels-as-features"),
    pytest.param(tiles.SHAPE, {"one_hot": True, "head_channels": 32, "first_pixels": 2}, id="colour-tiles"),
]


@pytest.mark.parametrize(("shape", "options"), VARIANTS)
def test_logits_depend_on_exactly_the_pixels_before(shape: ImageShape, options: dict[str, Any]) -> None:
    # Deep enough to see the whole image, so that a blind spot would be a missing dependence.
    model = make_model(shape, **options | {"vertical_layers": 8, "horizontal_layers": 8})
    seen = dependences(model, model.pixel_features)
    np.testing.assert_array_equal(seen, np.tri(shape.values, k=-1, dtype=np.bool_))


@pytest.mark.parametrize("shape", [ImageShape(2, 3, 1, 3), ImageShape(1, 2, 3, 2)])
def test_probabilities_of_all_images_sum_to_one(shape: ImageShape) -> None:
    model = make_model(shape, label_count=2)
    pixels = shape.height * shape.width * shape.channels
    every = torch.tensor(list(itertools.product(range(shape.levels), repeat=pixels)))
    images = from_levels(every.reshape(-1, shape.height, shape.width, shape.channels), shape.levels)
    for label in range(2):
        loss = model.negative_log_likelihood(images, torch.full((len(images),), label))["loss"]
        assert torch.exp(-loss.double()).sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("shape", "options"), VARIANTS)
def test_row_graph_paints_what_naive_sampling_paints(shape: ImageShape, options: dict[str, Any]) -> None:
    model = make_model(shape, **options)
    graph, session = raster(model)
    feeds = feeds_of(graph, shape, 96, model.label_count)
    painted = run_role(session, graph.role, feeds, shape.height)
    naive, naive_scores = model.sample_naive(*torch_feeds(feeds))
    np.testing.assert_array_equal(painted["row"], naive.numpy())
    np.testing.assert_allclose(painted["log_likelihood"], naive_scores.numpy(), rtol=2e-6, atol=2e-5)
    # The model is sharp, or the test would say little: images cost far less than independent pixels do.
    warm = feeds["temperature"] == 1
    nats = -painted["log_likelihood"][warm] / (~feeds["known"][warm]).sum((1, 2, 3))
    assert nats.mean() < 0.8 * np.log(shape.levels)


@pytest.mark.parametrize(("shape", "options"), VARIANTS)
def test_sampling_by_passes_equals_naive_sampling(shape: ImageShape, options: dict[str, Any]) -> None:
    model = make_model(shape, **options)
    feeds = torch_feeds(feeds_of(raster(model)[0], shape, 32, model.label_count))
    for one, other in zip(model.sample_by_passes(*feeds), model.sample_naive(*feeds), strict=True):
        assert torch.equal(one, other)


def test_free_samples_score_what_the_graph_says() -> None:
    model = make_model(COLOUR)
    graph, session = raster(model)
    feeds = feeds_of(graph, COLOUR, 16)
    feeds["known"][:] = False
    painted = run_role(session, graph.role, feeds, COLOUR.height)
    with torch.no_grad():
        loss = model.negative_log_likelihood(torch.from_numpy(painted["row"]))["loss"]
    np.testing.assert_allclose(painted["log_likelihood"], -loss.numpy(), atol=1e-4)


def test_known_pixels_come_back_as_given_and_condition_the_rest() -> None:
    model = make_model(GREY)
    graph, session = raster(model)
    feeds = feeds_of(graph, GREY, 12)
    feeds["given"] = np.random.default_rng(0).integers(0, 256, (12, 6, 7, 1), dtype=np.uint8)  # between levels too
    feeds["known"][:, ::2] = True
    feeds["temperature"][:] = 1
    painted = run_role(session, graph.role, feeds, GREY.height)["row"]
    np.testing.assert_array_equal(painted[feeds["known"]], feeds["given"][feeds["known"]])
    other = {**feeds, "given": np.bitwise_not(feeds["given"])}
    free = ~feeds["known"]
    assert (run_role(session, graph.role, other, GREY.height)["row"] != painted)[free].any()
    # What lies under free pixels means nothing.
    blank = {**feeds, "given": np.where(free, 0, feeds["given"]).astype(np.uint8)}
    np.testing.assert_array_equal(run_role(session, graph.role, blank, GREY.height)["row"], painted)


def test_temperature_zero_takes_the_most_likely_level_of_every_pixel() -> None:
    model = make_model(COLOUR)
    graph, session = raster(model)
    feeds = feeds_of(graph, COLOUR, 6)
    feeds["known"][:] = False
    feeds["temperature"][:] = 0
    painted = run_role(session, graph.role, feeds, COLOUR.height)["row"]
    assert (painted == painted[0]).all()  # whatever the noise
    levels = torch.from_numpy(np.rint(painted / 255 * (COLOUR.levels - 1)).astype(np.int64))
    with torch.no_grad():
        assert torch.equal(model.level_logits(levels).argmax(-1), levels)


def test_labels_matter() -> None:
    model = make_model(GREY, label_count=3)
    graph, session = raster(model)
    feeds = feeds_of(graph, GREY, 3, labels=3)
    feeds = {name: np.repeat(value[:1], 3, axis=0) for name, value in feeds.items()} | {"label": np.arange(3)}
    painted = run_role(session, graph.role, feeds, GREY.height)["row"]
    assert all((painted[a] != painted[b]).any() for a, b in itertools.combinations(range(3), 2))
    # Every layer hears of the label: silence all but one embedding, and logits still change.
    levels = random_levels(GREY, 1).expand(2, -1, -1, -1)
    for layer in (*model.vertical, *model.horizontal):
        others = [x for x in (*model.vertical, *model.horizontal) if x is not layer]
        saved = [x.label.weight.data.clone() for x in others]
        for x in others:
            x.label.weight.data.zero_()
        with torch.no_grad():
            logits = model.level_logits(levels, torch.tensor([0, 1]))
        assert not torch.equal(logits[0], logits[1])
        for x, weight in zip(others, saved, strict=True):
            x.label.weight.data.copy_(weight)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        pytest.param(ImageShape(5, 28, 1, 2), {"channels": 64, "vertical_layers": 3}, id="binary"),
        pytest.param(ImageShape(4, 8, 1, 17), {"channels": 40, "one_hot": True, "label_count": 3}, id="levels"),
        pytest.param(ImageShape(3, 5, 3, 5), {}, id="colour"),
        pytest.param(TALL, {"row_dilations": (2, 4, 1), "column_dilations": (2, 4)}, id="dilated"),
    ],
)
def test_samples_are_bitwise_the_same_in_every_batch(shape: ImageShape, options: dict[str, Any]) -> None:
    model = make_model(shape, **options)
    graph, session = raster(model)
    feeds = feeds_of(graph, shape, 256, model.label_count)
    whole = run_role(session, graph.role, feeds, shape.height)
    random = np.random.default_rng(0)
    for batch in [*range(1, 34), 47, 63, 64, 65, 100, 127, 128, 200, 255, 256]:
        index = random.permutation(256)[:batch]
        part = run_role(session, graph.role, {name: value[index] for name, value in feeds.items()}, shape.height)
        for name, value in part.items():
            assert value.tobytes() == whole[name][index].tobytes(), (name, batch)


@pytest.mark.parametrize("row_dilations", [(1,), (3, 1, 2)])
def test_states_are_bitwise_the_same_and_samples_at_different_rows_share_a_batch(
    row_dilations: tuple[int, ...],
) -> None:
    model = make_model(GREY, row_dilations=row_dilations)
    graph, session = raster(model)
    feeds = feeds_of(graph, GREY, 2)
    alone = run_role(session, graph.role, feeds, GREY.height)
    outputs = [s.name for s in graph.role.outputs] + [s.output for s in graph.role.states]
    late = 3  # sample 1 begins when sample 0 is at this row
    rows: list[list[np.ndarray[Any, Any]]] = [[], []]
    # Of each state the rows that a sample's runs gave; zeros above its image.
    given = [{s.input: [np.zeros(s.shape, np.float32)] * rows_back(s) for s in graph.role.states} for _ in range(2)]
    for step in range(GREY.height + late):
        running = [i for i in range(2) if 0 <= step - i * late < GREY.height]
        now = {k: np.stack([v[i, step - i * late] for i in running]) for k, v in feeds.items() if k != "temperature"}
        read = {s.input: np.stack([given[i][s.input][-rows_back(s)] for i in running]) for s in graph.role.states}
        results = session.run(outputs, now | read | {"temperature": feeds["temperature"][running]})
        for place, i in enumerate(running):
            rows[i].append(results[0][place])
            for state, newest in zip(graph.role.states, results[2:], strict=True):
                given[i][state.input].append(newest[place])
    np.testing.assert_array_equal(np.stack([np.stack(r) for r in rows]), alone["row"])


def test_a_dilation_is_state_and_nothing_else() -> None:
    plain, dilated = (make_model(TALL, row_dilations=steps, column_dilations=steps) for steps in ((1,), (1, 2, 4)))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), dilated.parameters(), strict=True))
    (one, _), (other, _) = raster(plain), raster(dilated)
    assert one.multiply_adds == other.multiply_adds
    # One row of each state crosses per run, however far up it is read.
    width, channels = TALL.width, plain.settings.channels
    for graph, backs in ((one, [1, 1, 1, 1]), (other, [1, 1, 2, 4])):
        assert [list(state.shape) for state in graph.role.states] == [[2, width, 1], *[[width, channels]] * 3]
        assert [rows_back(state) for state in graph.role.states] == backs


def test_dilations_are_taken_in_turn() -> None:
    settings = PixelCNNSettings(
        vertical_layers=6, row_dilations=(2, 4, 8), column_dilations=(3, 1), horizontal_layers=1
    )
    assert settings.dilations == [(2, 3), (4, 1), (8, 3), (2, 1), (4, 3)]
    assert PixelCNNSettings(vertical_layers=1, row_dilations=(2, 4), horizontal_layers=1).dilations == []
    assert PixelCNNSettings(vertical_layers=3, horizontal_layers=1).dilations == [(1, 1), (1, 1)]


def test_uniforms_are_philox_multiples() -> None:
    uniforms = uniforms_of_range(7, 0, 3, (4, 4, 1))
    assert uniforms.dtype == np.float32
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    np.testing.assert_array_equal(uniforms * 2**24, np.rint(uniforms * 2.0**24))
    np.testing.assert_array_equal(uniforms_of_range(7, 0, 2, (4, 4, 1)), uniforms[:2])
    assert (uniforms_of_range(8, 0, 3, (4, 4, 1)) != uniforms).any()


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="horizontal_layers"):
        PixelCNNSettings(vertical_layers=2, horizontal_layers=3)
    with pytest.raises(ValueError, match="odd"):
        PixelCNNSettings(first_window=(2, 4))
    with pytest.raises(ValueError, match="column_dilations must have at least one entry"):
        PixelCNNSettings(column_dilations=())


@pytest.mark.parametrize("shape", [GREY, ImageShape(1, 1, 1, 2)])
@pytest.mark.parametrize(("name", "side"), [("row_dilations", "height"), ("column_dilations", "width")])
def test_no_layer_looks_beyond_the_image(shape: ImageShape, name: str, side: str) -> None:
    largest = max(1, getattr(shape, side) - 1)
    fitting: dict[str, Any] = {name: (1, largest)}
    GatedPixelCNN(shape, PixelCNNSettings(**fitting))
    farther: dict[str, Any] = {name: (1, largest + 1)}
    with pytest.raises(ValueError, match=rf"{name} has {largest + 1}, and images are .* than {largest}$"):
        GatedPixelCNN(shape, PixelCNNSettings(**farther))
