"""Recipes are read from TOML, every value is checked, and a family may be a file of one's own."""

from __future__ import annotations

import io
import json
import shutil
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
from google.protobuf import json_format
from rich.console import Console

from ancestral.v1 import bundle_pb2
from ancestral_exporter import tiles
from ancestral_exporter.data import load
from ancestral_exporter.errors import UsageError
from ancestral_exporter.make import make
from ancestral_exporter.models import families
from ancestral_exporter.models.base import ImageShape
from ancestral_exporter.models.vae import VAE, VAESettings
from ancestral_exporter.progress import Announcer
from ancestral_exporter.recipes import find, shipped
from ancestral_exporter.training import Options

MY_MODEL = Path(__file__).parent / "my_model.py"

MINE = """
description = "coins"
family = "my_model.py:Coin"

[data]
source = "digits"

[model]
scale = 2

[schedule]
epochs = 2
batch_size = 100
learning_rate = 0.1
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A recipe of one's own, `coins.toml`, beside the file of its family."""
    shutil.copy(MY_MODEL, tmp_path)
    (tmp_path / "coins.toml").write_text(MINE)
    return tmp_path / "coins.toml"


def test_every_shipped_recipe_is_whole() -> None:
    names = [summary.name for summary in shipped()]
    assert "digits-vae" in names
    for summary in shipped():
        recipe = find(summary.name)
        assert (recipe.name, recipe.description) == (summary.name, summary.description)
        assert json.loads(json.dumps(recipe.settings()))["model"].keys() == vars(recipe.model).keys()
    exact = next(reference for reference in find("tiles-pixelcnn").references if reference.text == "exact entropy")
    assert exact.bits_per_dim == pytest.approx(tiles.BITS_PER_DIM)


def test_set_changes_any_value_and_nothing_else() -> None:
    plain = find("digits-vae")
    changed = find(
        "digits-vae",
        ["model.latent_size=64", "model.encoder_widths=[8, 16]", "schedule.learning_rate=1", "name=other"],
    )
    assert changed.model == VAESettings(**{**vars(plain.model), "latent_size": 64, "encoder_widths": (8, 16)})
    assert changed.schedule.learning_rate == 1
    assert changed.name == "other"
    assert changed.data == plain.data


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "model.latent_sise=64",
            r"\[model\] has no key 'latent_sise' \(did you mean 'latent_size'\?\); it has: latent",
        ),
        ("modle.latent_size=64", r"the file has no key 'modle' \(did you mean 'model'\?\)"),
        ("model.latent_size=0", r"\[model\] latent_size = 0: Input should be greater than or equal to 1"),
        ("model.latent_size=1.5", r"\[model\] latent_size = 1.5: Input should be a valid integer"),
        ("model.latent_size=true", r"\[model\] latent_size = True: Input should be a valid integer"),
        ("model.decoder_dropout=1", r"\[model\] decoder_dropout = 1: Input should be less than 1"),
        ("model.encoder_widths=[8, 0]", r"\[model\] encoder_widths.1 = 0: Input should be greater than or equal to 1"),
        ("schedule.epochs=-1", r"\[schedule\] epochs = -1: Input should be greater"),
        ("schedule.learning_rate=fast", r"\[schedule\] learning_rate = 'fast': Input should be a valid number"),
        ("schedule=7", r"\[schedule\] must be a table, not 7"),
        ("name=a\tb", r"name must be a line of text"),
        ("name=a\nb", r"^--set 'name=a\\nb': must be one line; give each KEY=VALUE a --set of its own"),
        ("model.latent_size=4\n[schedule]\nepochs=1", r"must be one line"),
        ("family=vea", r"unknown family 'vea' \(did you mean 'vae'\?\); there are: vae, pixelcnn"),
        ("latent_size", r"--set latent_size: must be KEY=VALUE"),
        ("name.x=1", r"--set name.x=1: name has no keys"),
    ],
)
def test_a_wrong_value_is_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find("digits-vae", ["name=digits", setting])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family = ", r"is not TOML: Invalid value \(at end of document\)"),
        ('description = "x"', r"no family; there are: vae, pixelcnn"),
        ('family = "vae"\n[model]\nlatent_size = 2', r"\[data\] needs source"),
        ('family = "vae"\nreferences = 3\n[data]\nsource = "digits"\n[model]\nlatent_size = 2', r"\[schedule\] needs"),
        ('family = "pixelcnn"\n[model]\nfirst_window = [2, 4]', r"\[data\] needs source"),
        ('family = "pixelcn"', r"unknown family 'pixelcn' \(did you mean 'pixelcnn'\?\); there are: vae"),
        (
            'family = "vae"\n[data]\nsource = "digits"\n[model]\nlatent_size = 2\nbeta = inf\n'
            "[schedule]\nepochs = 1\nbatch_size = 8\nlearning_rate = 1e-3",
            r"\[model\] beta = inf: must be a finite number",
        ),
        (
            'family = "vae"\n[data]\nsource = "digits"\n[model]\nlatent_size = 99999999999999999999\n'
            "[schedule]\nepochs = 1\nbatch_size = 8\nlearning_rate = 1e-3",
            r"\[model\] latent_size = 99999999999999999999: Input should be less than or equal to 2147483647",
        ),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        find(str(path))
    assert str(path) in str(caught.value) or "unknown family" in message


def test_a_recipe_of_an_editor_that_marks_its_files(mine: Path) -> None:
    mine.write_bytes(b"\xef\xbb\xbf" + mine.read_bytes())
    assert find(str(mine)).description == "coins"


def test_a_source_that_was_mistyped() -> None:
    with pytest.raises(UsageError, match=r"unknown data source 'digit' \(did you mean 'digits'\?\); there are: digits"):
        load(find("digits-vae", ["data.source=digit"]).data)


def test_what_settings_say_of_each_other_is_checked() -> None:
    with pytest.raises(UsageError, match=r"digits-pixelcnn: \[model\]: first_window must have an odd number"):
        find("digits-pixelcnn", ["model.first_window=[2, 4]"])


def test_what_settings_say_of_the_images_is_checked() -> None:
    recipe = find("mnist-pixelcnn-dilated")
    assert recipe.build(ImageShape(28, 28, 1, 2)).settings == recipe.model
    message = r"^mnist-pixelcnn-dilated: \[model\]: row_dilations has 8, and images are 8 high: no layer .* than 7$"
    with pytest.raises(UsageError, match=message):
        recipe.build(ImageShape(8, 8, 1, 2))


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.toml: no such file"):
        find(str(tmp_path / "nothing.toml"))
    with pytest.raises(UsageError, match=r"unknown recipe 'digits-vea' \(did you mean 'digits-vae'\?\)"):
        find("digits-vea")


def test_a_family_in_a_file_of_ones_own(mine: Path, tmp_path: Path) -> None:
    """Trained, exported and verified, with no file of the exporter knowing it."""
    recipe = find(str(mine))
    made = make(recipe, tmp_path / "models", None, Options(), Announcer(Console(file=io.StringIO()), "coins"))
    manifest = json_format.Parse((made.path / "bundle.json").read_text(), bundle_pb2.Bundle())
    assert (manifest.name, manifest.family) == ("coins", "coin")
    # Bernoulli of the digits' share of bright pixels: below one bit.
    assert made.evaluations[-1].bits_per_dim < 1
    # Another file is another training.
    with (tmp_path / "my_model.py").open("a") as file:
        file.write("# changed\n")
    assert find(str(mine)).settings() != recipe.settings()


def test_a_family_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", "ancestral_exporter.models.vae:VAE", families.GROUP)
    monkeypatch.setattr(families, "entry_points", lambda **chosen: EntryPoints([point]).select(**chosen))
    assert families.find("theirs", Path()).model_type is VAE
    assert "theirs" in families.names()
    point = EntryPoint("theirs", "ancestral_exporter.nothing:VAE", families.GROUP)
    with pytest.raises(UsageError, match=r"family 'theirs' \(ancestral_exporter.nothing:VAE\): ModuleNotFoundError"):
        families.find("theirs", Path())


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("my_model.py:Missing", "has no 'Missing'"),
        ("my_model.py:NOT_A_FAMILY", "is no subclass of ancestral_exporter.models.base.ImageModel"),
        ("nowhere.py:Coin", "no file"),
        ("raises.py:Coin", "raises ZeroDivisionError: division by zero"),
        ("half.py:Half", "lacks family, settings_type, figure, graphs, training_terms, validation_terms"),
    ],
)
def test_a_family_that_cannot_be_used(mine: Path, family: str, message: str) -> None:
    (mine.parent / "raises.py").write_text("1 / 0\n")
    base = "from ancestral_exporter.models.base import ImageModel\n"
    (mine.parent / "half.py").write_text(f"{base}class Half(ImageModel): pass\n")
    with pytest.raises(UsageError, match=message):
        find(str(mine), [f"family={family}"])


RAISING = """
from dataclasses import dataclass
from my_model import Coin

@dataclass(frozen=True)
class Settings:
    scale: int = 2
    def __post_init__(self): {settings}

class Broken(Coin):
    settings_type = Settings
    def __init__(self, image, settings):
        {init}
        super().__init__(image, settings)
    def training_terms(self, *given):
        {training}
    def graphs(self):
        {graphs}
"""


@pytest.mark.parametrize(
    ("where", "raised", "as_told"),
    [
        *(
            (where, "KeyError('no\\n' + 'key')", r"KeyError: 'no\nkey'")
            for where in ("settings", "init", "training", "graphs")
        ),
        ("init", "SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_family_that_raises_is_told_in_one_line(
    mine: Path, tmp_path: Path, where: str, raised: str, as_told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the line of its file, and whatever it raises."""
    monkeypatch.syspath_prepend(tmp_path)
    bodies = {"settings": "pass", "init": "pass", "training": "return super().training_terms(*given)",
              "graphs": "return super().graphs()"} | {where: f"raise {raised}"}  # fmt: skip
    text = RAISING.format(**bodies)
    (tmp_path / "broken.py").write_text(text)
    line = 1 + next(i for i, code in enumerate(text.splitlines()) if "raise " in code)

    def train() -> None:
        recipe = find(str(mine), ["family=broken.py:Broken"])
        make(recipe, tmp_path / "models", None, Options(), Announcer(Console(file=io.StringIO()), "coins"))

    with pytest.raises(UsageError) as caught:
        train()
    told = str(caught.value)
    assert f"family 'broken.py:Broken': raises {as_told}" in told
    assert told.endswith(f", line {line} of {tmp_path / 'broken.py'}")
