"""The studio in a real browser, before a real server."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from ancestral_client import AsyncClient, Client
from ancestral_exporter.models.base import ImageShape
from ancestral_studio.visit import Visit
from browsers import chromium, opened, pixels
from pixelcnns import exported, sharp_pixelcnn
from running import PATIENT, ServerProcess
from shared import Shared
from studiopage import TABS, WATCH, bring, choose, panel, studio, tiles
from studiopictures import NAMES, Shown, take
from waiting import PATIENCE, eventually, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def patience() -> None:
    expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, vae: Path, shells: Path, large: Path, once: Shared
) -> Path:
    """A PixelCNN with classes, one in colour, a large one, a VAE, a classifier."""
    shape = ImageShape(5, 6, 3, 4)
    colour = once("colour", lambda folder: exported(sharp_pixelcnn(shape), folder, "colour")) / "colour"
    folder = tmp_path_factory.mktemp("studio")
    for model in (labelled, vae, shells, large, colour):
        shutil.copytree(model, folder / model.name)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with ServerProcess(models, *PATIENT) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def url(client: Client) -> Iterator[str]:
    with studio(client.address) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url, script=WATCH) as page:
        yield page


def grey(canvas: Locator) -> NDArray[np.uint8]:
    """What a canvas shows of a grey image, whose pixels are all there: [H,W,1]."""
    found = pixels(canvas)
    assert (found[..., 3] == 255).all()
    assert (found[..., :1] == found[..., 1:3]).all()
    return found[..., :1]


def clear(where: Locator) -> None:
    """Has the one drawing there cleared: black, or not known."""
    canvas = where.get_by_role("application").locator("canvas")
    where.get_by_role("button", name="Clear").click()
    until(lambda: not pixels(canvas)[..., :3].any())


def stroke(page: Page, canvas: Locator, *points: tuple[float, float]) -> None:
    """Draws with the mouse through points of the unit square."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def test_a_grid_appears_row_by_row(page: Page, client: Client) -> None:
    sample = panel(page, "Sample")
    choose(page, sample, "Model", "labelled")
    choose(page, sample, "Class", "2")
    sample.get_by_label("Images").fill("3")
    sample.get_by_label("Seed").fill("7")
    sample.get_by_role("button", name="Draw samples").click()
    expect(sample.get_by_text("Seed 7")).to_be_visible()

    expected = client.sample("labelled", 3, seed=7, label=2)
    assert expected.log_likelihood is not None
    painted = page.evaluate("window.painted")
    for index, image in enumerate(expected.images):
        steps = [(top, rows) for label, top, rows in painted if label == f"image {index + 1}"]
        assert steps == [*((row, 1) for row in range(8)), (0, 8)]
        np.testing.assert_array_equal(grey(tiles(sample).nth(index)), image)
    nats = [f"{nats:.1f} nats".replace("-", "−") for nats in expected.log_likelihood]
    expect(sample.locator("figcaption")).to_have_text(nats)
    expect(page.get_by_role("status").first).to_contain_text("labelled version 1")
    expect(page.get_by_role("status").first).to_contain_text(re.compile("batch of [1-3]"))


def test_a_mask_is_drawn_and_completed_and_what_is_known_stays(page: Page) -> None:
    complete = panel(page, "Complete")
    choose(page, complete, "Model", "labelled")
    drawing = complete.get_by_role("application").locator("canvas")
    until(
        lambda: pixels(drawing).shape == (8, 8, 4) and (pixels(drawing)[..., 3] == 255).all()
    )  # a sample to begin with
    stroke(page, drawing, (0.05, 0.7), (0.95, 0.7), (0.95, 0.95), (0.05, 0.95))  # the eraser
    complete.get_by_role("button", name="White pen").click()
    stroke(page, drawing, (0.1, 0.1), (0.4, 0.1))
    before = pixels(drawing)
    known = before[..., 3] == 255
    assert known[:4].all()
    assert 4 <= (~known).sum() <= 24

    complete.get_by_role("button", name="Complete", exact=True).click()
    expect(complete.locator("figcaption")).to_contain_text(["nats"] * 8)
    images = [grey(tiles(complete).nth(index)) for index in range(8)]
    for image in images:
        np.testing.assert_array_equal(image[known], before[known][:, :1])
    assert len({image.tobytes() for image in images}) > 1


def test_there_is_nothing_to_complete_of_a_whole_image(page: Page) -> None:
    complete = panel(page, "Complete")
    drawing = complete.get_by_role("application").locator("canvas")
    until(lambda: (pixels(drawing)[..., 3] == 255).all())
    complete.get_by_role("button", name="Complete", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("nothing is missing")


def test_a_colour_model_is_painted_and_drawn_in_colour(page: Page) -> None:
    complete = panel(page, "Complete")
    choose(page, complete, "Model", "colour")
    drawing = complete.get_by_role("application").locator("canvas")
    until(lambda: pixels(drawing).shape == (5, 6, 4))
    clear(complete)
    assert not pixels(drawing)[..., 3].any()
    complete.get_by_label("Colour of the pen").fill("#ff8000")
    expect(complete.get_by_role("button", name="Eraser")).to_have_attribute("aria-pressed", "false")
    stroke(page, drawing, (0.25, 0.1), (0.6, 0.1))
    before = pixels(drawing)
    known = before[..., 3] == 255
    assert [255, 128, 0, 255] in before[known].tolist()
    complete.get_by_role("button", name="Complete", exact=True).click()
    expect(complete.locator("figcaption")).to_contain_text(["nats"] * 8)
    image = pixels(tiles(complete).first)
    np.testing.assert_array_equal(image[known], before[known])
    assert (image[..., 3] == 255).all()


def test_the_map_is_moved_over_by_mouse_and_by_keys(page: Page, client: Client) -> None:
    where = panel(page, "Map")
    choose(page, where, "Model", "vae")
    said = where.get_by_role("status")
    expect(said).to_contain_text("latent 0 at 0.00 and latent 1 at 0.00")

    def at() -> tuple[float, float]:
        words = said.inner_text().replace("−", "-").replace(",", "").split()
        return float(words[3]), float(words[8])

    pad = where.get_by_role("application")
    middle = grey(tiles(where).first)
    box = pad.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.2)
    until(lambda: at()[0] > 1 and at()[1] < -0.5 and not np.array_equal(grey(tiles(where).first), middle))

    pad.press("Home")
    expect(said).to_contain_text("latent 0 at 0.00 and latent 1 at 0.00")
    pad.press("Shift+ArrowRight")
    pad.press("ArrowUp")
    latent = [NormalDist().inv_cdf(0.5 + 0.1), NormalDist().inv_cdf(0.5 - 0.02), 0, 0]
    expected = client.decode("vae", latent).images[0]
    until(lambda: np.array_equal(grey(tiles(where).first), expected))
    assert at() == (0.25, -0.05)


def test_a_drawing_is_classified_scored_and_rebuilt(page: Page, client: Client) -> None:
    look = panel(page, "Look")
    choose(page, look, "Image size", "8×8×1")
    drawing = look.get_by_role("application").locator("canvas")
    clear(look)
    stroke(page, drawing, (0.56, 0.1), (0.56, 0.9))
    image = grey(drawing)
    assert image[4, 4].max() == 255
    found = client.classify("shells", image)
    shells = look.get_by_role("region", name="shells")
    best = f"{found.names[0]}{found.probabilities.max():.0%}"
    until(lambda: shells.locator(".bars").inner_text().replace("\n", "").startswith(best))
    rebuilt = client.reconstruct("vae", image).images[0]
    until(lambda: np.array_equal(grey(look.get_by_role("region", name="vae").locator("canvas")), rebuilt))
    scores = client.score("labelled", np.repeat(image[None], 3, 0), labels=np.arange(3))
    said = look.get_by_role("region", name="labelled").get_by_text("log p")
    label, nats = scores.log_likelihood.argmax(), f"{scores.log_likelihood.max():.1f}".replace("-", "−")
    expect(said).to_have_text(f"log p(x | {label}) = {nats} nats, the highest of the classes")


def test_a_picture_of_ones_own_is_encoded_rebuilt_and_classified(page: Page, client: Client, tmp_path: Path) -> None:
    image = np.random.default_rng(5).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(image).save(tmp_path / "mine.png")
    look = panel(page, "Look")
    choose(page, look, "Image size", "8×8×1")
    clear(look)
    bring(page, look, tmp_path / "mine.png")
    drawing = look.get_by_role("application").locator("canvas")
    until(lambda: np.array_equal(grey(drawing)[..., 0], image))
    expect(look.get_by_text("mine.png: taken as it is")).to_be_visible()
    latents = ", ".join(f"{z:.2f}".replace("-", "−") for z in client.encode("vae", image).mean[0])
    mine = look.get_by_role("region", name="vae")
    expect(mine.get_by_text(f"4 latents: {latents}")).to_be_visible()
    until(lambda: np.array_equal(grey(mine.locator("canvas")), client.reconstruct("vae", image).images[0]))
    found = client.classify("shells", image)
    best = f"{found.names[0]}{found.probabilities.max():.0%}"
    shells = look.get_by_role("region", name="shells")
    until(lambda: shells.locator(".bars").inner_text().replace("\n", "").startswith(best))


def test_a_photograph_is_completed_and_what_is_no_picture_is_told(page: Page, tmp_path: Path) -> None:
    photograph = np.zeros((24, 40, 3), np.uint8)
    photograph[:, 20:] = (255, 255, 254)
    Image.fromarray(photograph).save(tmp_path / "beach.png")
    (tmp_path / "letter.png").write_text("Dear model")
    complete = panel(page, "Complete")
    choose(page, complete, "Model", "labelled")
    drawing = complete.get_by_role("application").locator("canvas")
    until(lambda: pixels(drawing).shape == (8, 8, 4) and (pixels(drawing)[..., 3] == 255).all())
    bring(page, complete, tmp_path / "beach.png")
    expect(
        complete.get_by_text("beach.png: its colours are grey now; 40×24 pixels, its middle, scaled")
    ).to_be_visible()
    until(lambda: (pixels(drawing)[:, :3, 0] < 40).all() and (pixels(drawing)[:, 5:, 0] > 215).all())

    before = pixels(drawing)
    bring(page, complete, tmp_path / "letter.png")
    expect(page.get_by_role("alert")).to_have_text("Your picture: letter.png: not a picture")
    np.testing.assert_array_equal(pixels(drawing), before)

    complete.get_by_role("button", name="Erase the lower half").press("Enter")
    until(lambda: not pixels(drawing)[4:, :, 3].any())
    complete.get_by_role("button", name="Complete", exact=True).press("Enter")
    expect(complete.locator("figcaption")).to_contain_text(["nats"] * 8)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_slider_moves_by_keys_and_the_image_with_it(page: Page, client: Client) -> None:
    where = panel(page, "Sliders")
    choose(page, where, "Model", "vae")
    slider = where.get_by_role("slider", name="Latent 2")
    expect(slider).to_be_visible()
    for _ in range(3):
        slider.press("ArrowRight")
    expected = client.decode("vae", [0, 0, 0.15, 0]).images[0]
    until(lambda: np.array_equal(grey(tiles(where).first), expected))
    where.get_by_role("button", name="Random").click()
    until(lambda: not np.array_equal(grey(tiles(where).first), expected))
    where.get_by_role("button", name="All 0").click()
    zero = client.decode("vae", [0, 0, 0, 0]).images[0]
    until(lambda: np.array_equal(grey(tiles(where).first), zero))


def test_the_way_between_two_images_is_that_of_the_client(page: Page, client: Client) -> None:
    between = panel(page, "Between")
    choose(page, between, "Model", "vae")
    ends = between.get_by_role("application").locator("canvas")
    expect(tiles(between)).to_have_count(10)
    between.get_by_role("button", name="Clear").nth(0).click()
    stroke(page, ends.nth(0), (0.2, 0.2), (0.8, 0.8))
    between.get_by_role("button", name="Straight").click()
    way = client.interpolate("vae", grey(ends.nth(0)), grey(ends.nth(1)), steps=10, path="linear").images

    def shown() -> NDArray[np.uint8]:
        return np.stack([grey(tiles(between).nth(index)) for index in range(10)])

    until(lambda: np.array_equal(shown(), way))


def test_visitors_do_not_see_each_other(browser: Browser, url: str, page: Page) -> None:
    sample = panel(page, "Sample")
    sample.get_by_label("Images").fill("2")
    sample.get_by_role("button", name="Draw samples").click()
    expect(sample.locator("figcaption")).to_contain_text(["nats"] * 2)
    with opened(browser, url) as other:
        theirs = panel(other, "Sample")
        expect(theirs.get_by_label("Images")).to_have_value("16")
        expect(tiles(theirs)).to_have_count(0)
        expect(other.get_by_role("status").first).to_contain_text("Each call")


def test_a_drawing_by_keys(page: Page) -> None:
    look = panel(page, "Look")
    choose(page, look, "Image size", "8×8×1")
    clear(look)
    pad = look.get_by_role("application")
    pad.press("ArrowUp")
    pad.press(" ")
    pad.press("Shift+ArrowRight")
    expect(pad).to_have_attribute("aria-label", re.compile("Your drawing, 8 by 8 pixels, column 6, row 4. Arrow keys"))
    assert (grey(pad.locator("canvas"))[3, 4:6, 0] == 255).all()


def test_a_model_that_goes_away_is_told_and_the_page_lives_on(page: Page, client: Client) -> None:
    sample = panel(page, "Sample")
    choose(page, sample, "Model", "colour")
    client.unload("colour")
    try:
        expect(page.get_by_text("colour is not served any more")).to_be_visible()
        expect(sample.get_by_text("version 1 on cpu: 8×8 grey")).to_be_visible()  # another one is chosen
        sample.get_by_role("button", name="Draw samples").click()
        expect(sample.locator("figcaption")).to_contain_text(["nats"] * 16)
    finally:
        client.load("colour")
    until(lambda: client.model("colour").serving)


def test_a_phone_shows_all_of_it(browser: Browser, url: str) -> None:
    with opened(browser, url, width=390, height=844) as page:
        for tab in TABS:
            where = panel(page, tab)
            expect(where.get_by_label("Model" if tab != "Look" else "Image size").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") == 390, tab


def test_the_pictures_of_the_readme_can_be_taken(browser: Browser, url: str, client: Client, tmp_path: Path) -> None:
    """As `make studio-pictures` takes them of other models; each shows all of the page."""
    take(browser, url, client, tmp_path, Shown("large", "vae"))
    for name in NAMES:
        with Image.open(tmp_path / name) as taken, Image.open(ROOT / "clients" / "studio" / name) as shown:
            assert taken.width == shown.width == (390 if name == "phone.png" else 960), name


def test_who_leaves_stops_what_the_server_paints_for_them(server: ServerProcess) -> None:
    """What the page does when its visitor is gone, without the browser: a page asks for too few images to see it."""
    count, rows = 9000, 24

    def figure(name: str) -> float:
        return server.metric(f"ancestral_{name}", model="large", role="sample")

    async def main() -> None:
        painted = figure("batch_size_sum")
        async with asyncio.timeout(PATIENCE), AsyncClient(server.address) as client:
            visit, began = Visit(client), asyncio.Event()

            async def sample() -> None:
                async with visit.asking("Sample") as asked, client.sample_stream("large", count) as events:
                    async for event in events:
                        asked.answered(event.info)
                        began.set()

            task = asyncio.create_task(sample())
            await began.wait()
            visit.leave()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: figure("queued_images") == 0)
            await client.sample("large", 1)
        assert figure("batch_size_sum") - painted < count * rows  # gone, and not finished

    # The browser has an event loop that runs in this thread.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, main()).result()
