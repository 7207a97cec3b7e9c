"""The page of what trained bundles reach, from a bundle that was trained and one of the zoo."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ancestral_exporter.errors import UsageError
from ancestral_exporter.results import find_results, results_page
from entrypoints import call
from shared import TrainedVae

ZOO = Path(__file__).parents[2] / "exporter" / "zoo"


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row, by the first one."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_a_page_holds_bundles_against_what_is_published(trained_vae: TrainedVae, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(trained_vae.models, models)
    (zoo,) = (ZOO / "mnist-pixelcnn-dilated").glob("[0-9]*")
    results = find_results([models, zoo])
    assert [result.source for result in results] == ["digits", "mnist"]
    page = results_page(results, tmp_path)
    found = rows(page)
    manifest = json.loads((models / "digits-vae" / "1" / "bundle.json").read_text())
    (bits,) = (m["value"] for m in manifest["metrics"] if m["name"] == "bits_per_dim" and m["split"] == "test")
    name = "[digits-vae](models/digits-vae/1/CARD.md)"
    assert found[name][0] == f"{bits:.4f}"
    assert found[name][2:4] == ["bound, ELBO", f"{int(manifest['provenance']['parameters']):,}"]
    assert found[name][5] == manifest["provenance"]["machine"]
    assert found["published VAE, bound (jmtomczak/intro_dgm)"][0] == "2.2700"
    # What today's recipes of the same data name counts too: those of the bundle may be older.
    assert found["published PixelSNAIL, exact (pytorch-generative: 78.61 nats)"][0] == "0.1447"
    *_, without = page.splitlines()
    assert "`digits-vae`" not in without
    assert "`tiles-vae`" in without
    # The zoo lies elsewhere: no link, and no picture.
    said = {
        m["name"]: m["value"] for m in json.loads((zoo / "bundle.json").read_text())["metrics"] if m["split"] == "test"
    }
    figures = [f"{said['bits_per_dim']:.4f}", f"{said['negative_log_likelihood']:.2f}", "exact"]
    assert found["mnist-pixelcnn-dilated"][:3] == figures
    assert "![samples of digits-vae](models/digits-vae/1/samples.png)" in page
    assert "samples of mnist-pixelcnn" not in page


def test_what_was_evaluated_stands_there_with_its_pictures(trained_vae: TrainedVae, tmp_path: Path) -> None:
    folder = tmp_path / "evaluated" / "digits-vae"
    folder.mkdir(parents=True)
    probes = [
        {"encoding": encoding, "classifier": kind, "labelled": count, "accuracy": accuracy, "deviation": 0.0}
        for encoding, kind, count, accuracy in (
            ("features", "SVM", 50, 0.75), ("features", "SVM", 1000, 0.9), ("raw pixels", "SVM", 50, 0.5),
            ("raw pixels", "SVM", 1000, 0.8), ("features", "nearest neighbours", 50, 0.1),
        )
    ]  # fmt: skip
    classes = {"images": 64, "sure": 0.875, "test_sure": 0.953125, "test_accuracy": 0.99}
    found = {"bundle": "digits-vae", "version": 1, "part": "test", "probes": probes, "classes": classes}
    (folder / "evaluation.json").write_text(json.dumps(found))
    for picture in ("traversals.png", "reconstructions.png"):
        (folder / picture).touch()
    page = results_page(find_results([trained_vae.models], tmp_path / "evaluated"), tmp_path)
    assert rows(page)["SVM, features"] == ["25.00%", "10.00%"]
    assert rows(page)["SVM, raw pixels"] == ["50.00%", "20.00%"]
    assert "nearest neighbours" not in page
    assert rows(page)["digits-vae"] == ["64", "87.5%", "95.3%", "99.0%"]
    for picture in ("traversals", "reconstructions"):
        assert f"![{picture} of digits-vae](evaluated/digits-vae/{picture}.png)" in page
    assert "manifold" not in page
    # Of another version, or of images that something was chosen by, nothing is said.
    for other in ({"version": 2}, {"part": "validation"}):
        (folder / "evaluation.json").write_text(json.dumps(found | other))
        plain = results_page(find_results([trained_vae.models], tmp_path / "evaluated"), tmp_path)
        assert plain == results_page(find_results([trained_vae.models]), tmp_path)


_WHOSE = '"bundle": "digits-vae", "version": 1, "part": "test"'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"bundle": "digits-vae"}',
        "\x00",
        '{"bundle": [], "version": 1, "part": "test"}',
        f'{{{_WHOSE}, "probes": 3}}',
        f'{{{_WHOSE}, "probes": [{{"classifier": "SVM"}}]}}',
        f'{{{_WHOSE}, "classes": {{"images": "many"}}}}',
    ],
)
def test_an_evaluation_that_is_none_is_named(trained_vae: TrainedVae, tmp_path: Path, content: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "evaluation.json").write_text(content)
    with pytest.raises(
        UsageError, match=r"one/evaluation.json: is not what `ancestral-exporter evaluate --json` write"
    ):
        find_results([trained_vae.models], tmp_path)
    with pytest.raises(UsageError, match=r"nowhere: there is no such folder of evaluations"):
        find_results([trained_vae.models], tmp_path / "nowhere")


def test_what_is_missing_of_an_evaluation_leaves_its_cell_empty(trained_vae: TrainedVae, tmp_path: Path) -> None:
    """As are cells of a bundle whose account of its training is nonsense."""
    shutil.copytree(trained_vae.models, tmp_path / "models")
    (tmp_path / "evaluated" / "one").mkdir(parents=True)
    probes = [
        {"encoding": encoding, "classifier": "SVM", "labelled": count, "accuracy": 0.75}
        for encoding, count in (("features", 50), ("features", 100), ("raw pixels", 100))
    ]
    found = {"bundle": "digits-vae", "version": 1, "part": "test", "probes": probes}
    (tmp_path / "evaluated" / "one" / "evaluation.json").write_text(json.dumps(found))
    path = tmp_path / "models" / "digits-vae" / "1" / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["provenance"]["training_seconds"] = "long"
    for settings in (
        '{"data": "digits", "references": [3, {"text": "a"}, {"text": "b", "bits_per_dim": "c"}]}',
        '{"data": "digits", "references": 3}',
        "nonsense",
    ):
        manifest["provenance"]["settings"] = settings
        path.write_text(json.dumps(manifest))
        results = find_results([tmp_path / "models"], tmp_path / "evaluated")
        assert [result.source for result in results] == ["" if settings == "nonsense" else "digits"]
        found_rows = rows(results_page(results, tmp_path))
        assert found_rows["SVM, features"] == ["25.00%", "25.00%"]
        assert found_rows["SVM, raw pixels"] == ["", "25.00%"]
        assert found_rows["[digits-vae](models/digits-vae/1/CARD.md)"][4] == ""


def test_how_often_a_classifier_errs_is_said(trained_vae: TrainedVae, tmp_path: Path) -> None:
    shutil.copytree(trained_vae.models / "digits-vae" / "1", tmp_path / "digits-vae" / "1")
    path = tmp_path / "digits-vae" / "1" / "bundle.json"
    manifest = json.loads(path.read_text())
    manifest["metrics"].append({"name": "error", "value": 0.0432, "unit": "share of images", "split": "test"})
    settings = json.loads(manifest["provenance"]["settings"])
    settings["data"]["labelled"] = 1000
    manifest["provenance"]["settings"] = json.dumps(settings)
    path.write_text(json.dumps(manifest))
    (how,) = (
        row[2] for name, row in rows(results_page(find_results([tmp_path]), tmp_path)).items() if "[digits" in name
    )
    assert how == "bound, ELBO; classifies 4.32% wrong after 1,000 labels"


def test_of_a_model_the_latest_version_counts_and_what_was_never_tested_does_not(
    trained_vae: TrainedVae, untrained_models: Path, tmp_path: Path
) -> None:
    home = tmp_path / "digits-vae"
    for version in ("2", "10"):
        shutil.copytree(trained_vae.models / "digits-vae" / "1", home / version)
    assert [result.folder for result in find_results([tmp_path, untrained_models])] == [home / "10"]
    # In several folders too; of equal versions the first one; a bundle that is named counts as it is.
    assert [result.folder for result in find_results([trained_vae.models, tmp_path])] == [home / "10"]
    other = tmp_path / "other" / "digits-vae"
    shutil.copytree(home / "10", other / "10")
    assert [result.folder for result in find_results([other.parent, tmp_path])] == [other / "10"]
    assert [result.folder for result in find_results([home / "2", home / "10"])] == [home / "2", home / "10"]


def test_a_folder_without_bundles_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is neither a bundle nor a folder of models \(MODEL/VERSION/bundle.json\)"):
        find_results([tmp_path])


def test_the_command_writes_the_page_or_prints_it(
    trained_vae: TrainedVae, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("ancestral-exporter", "results", str(trained_vae.models))
    printed = rows(capsys.readouterr().out)
    assert "digits-vae" in printed
    page = tmp_path / "RESULTS.md"
    call("ancestral-exporter", "results", str(trained_vae.models), "--out", str(page))
    assert capsys.readouterr().out == f"wrote {page}, 1 bundles\n"
    assert rows(page.read_text()) == printed
