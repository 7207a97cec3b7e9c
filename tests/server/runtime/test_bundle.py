"""Bad bundles: the refusal names the file and the reason."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import hostile
import toybundle
from ancestral.bundle import rules
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError
from ancestral_server.runtime import bundle as bundles
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.session import Graph, Runtime, Session


def test_a_good_bundle_is_read(tmp_path: Path) -> None:
    bundle = read_bundle(toybundle.write(tmp_path))
    assert bundle.manifest.name == "tally"
    assert set(bundle.golden()) == set(toybundle.golden())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newer_schema(path: Path) -> None:
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "schema": rules.SCHEMA + 1, "invented_later": {"a": 1}})
    )


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("encode.onnx", truncate, "truncated"),
        ("encode.onnx", flip, "SHA-256"),
        ("sample.onnx", Path.unlink, "is missing"),
        ("golden.npz", flip, "SHA-256"),
        ("bundle.json", truncate, "not JSON"),
        ("bundle.json", Path.unlink, "is missing"),
        ("bundle.json", newer_schema, "schema 3 is newer than the 2 that is known here: update Ancestral"),
        ("bundle.json", lambda path: path.write_text("[]"), "not a JSON object"),
        ("bundle.json", lambda path: path.write_text('{"schema": 1, "roles": 3}'), "not a bundle manifest"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, damage: Callable[[Path], object], reason: str) -> None:
    folder = toybundle.write(tmp_path)
    damage(folder / file)
    with pytest.raises(BundleError, match=reason) as refusal:
        read_bundle(folder)
    assert refusal.value.file == file


def packed(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a zip file"),
        (b"PK\x03\x04 and nothing more", "not a zip file"),
        (b"\x80\x04N.", "not a zip file"),
        (packed(a=np.array([None])), "allow_pickle=False"),
    ],
)
def test_golden_data_of_any_kind_of_rubbish_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    bundle = read_bundle(toybundle.write(tmp_path))
    bundle = dataclasses.replace(bundle, contents={**bundle.contents, "golden.npz": content})
    with pytest.raises(BundleError, match=problem) as refusal:
        bundle.golden()
    assert refusal.value.file == "golden.npz"


def test_golden_data_that_would_fill_the_memory_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MAX_GOLDEN_BYTES", 2**20)
    bundle = read_bundle(toybundle.write(tmp_path))
    bomb = packed(a=np.zeros(2**20, np.uint8), b=np.zeros(2**20, np.uint8))
    assert len(bomb) < 10_000
    with pytest.raises(BundleError, match=r"has 20974\d\d bytes unpacked, must have at most 1048576"):
        dataclasses.replace(bundle, contents={"golden.npz": bomb}).golden()


def test_a_manifest_that_is_no_file_or_endless_is_not_read(tmp_path: Path) -> None:
    manifest = toybundle.write(tmp_path) / "bundle.json"
    manifest.unlink()
    os.mkfifo(manifest)
    with pytest.raises(BundleError, match="is no file"):
        read_bundle(manifest.parent)
    manifest.unlink()
    manifest.write_bytes(b"")
    os.truncate(manifest, 10**9)
    with pytest.raises(BundleError, match="has 1000000000 bytes, must have at most"):
        read_bundle(manifest.parent)


def leave(manifest: bundle_pb2.Bundle) -> None:
    manifest.files[0].path = "../../etc/passwd"


def endless_name(manifest: bundle_pb2.Bundle) -> None:
    manifest.files[0].path = "x" * 5000


def no_graph(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[0].graph = "other.onnx"


def twice(manifest: bundle_pb2.Bundle) -> None:
    manifest.roles[1].name = "encode"


def no_image(manifest: bundle_pb2.Bundle) -> None:
    manifest.image.levels = 1


def other_name(manifest: bundle_pb2.Bundle) -> None:
    manifest.name = "sum"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (leave, "leads out of the bundle"),
        (endless_name, "files\\[0\\].path has 5000 characters, must have at most 1024"),
        (no_graph, "'other.onnx' is not among its files"),
        (twice, "there twice"),
        (no_image, "image.levels is 1, must be 2 to 256"),
        (other_name, "lies in tally/1"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[bundle_pb2.Bundle], None], reason: str
) -> None:
    with pytest.raises(BundleError, match=reason):
        read_bundle(toybundle.write(tmp_path, change=change))


@pytest.mark.parametrize("name", ["weights.bin", "w" * 200 + ".bin"])
def test_a_graph_keeps_its_data_in_files_of_the_manifest(tmp_path: Path, name: str) -> None:
    graph = toybundle.write(tmp_path / "plain", layers=1) / "encode.onnx"
    folder = tmp_path / "split"
    folder.mkdir()
    onnx.save(onnx.load(graph), folder / graph.name, save_as_external_data=True, location=name)
    assert (folder / name).stat().st_size > 0

    def split(models: Path, *listed: str) -> Path:
        """The toy bundle, its encoder replaced by that graph; `listed` is what the manifest has of it."""

        def add(manifest: bundle_pb2.Bundle) -> None:
            for file in manifest.files:
                if file.path == graph.name:
                    manifest.files.remove(file)
            for path in listed:
                manifest.files.append(toybundle.listed(folder / path))

        bundle = toybundle.write(models, change=add)
        for path in (graph.name, name):
            (bundle / path).write_bytes((folder / path).read_bytes())
        return bundle

    unlisted = read_bundle(split(tmp_path / "unlisted", graph.name))
    with pytest.raises(BundleError, match=f'{name}"; a graph may keep data only in files of the manifest') as refusal:
        Runtime("cpu", 1).open(unlisted.graph(unlisted.manifest.roles[0]))
    assert refusal.value.file == graph.name

    bundle = read_bundle(split(tmp_path / "listed", graph.name, name))
    session = Runtime("cpu", 1).open(bundle.graph(bundle.manifest.roles[0]))
    assert session.run(["code"], {"image": bundle.golden()["encode/in/image"]})[0].shape == (3, 2)


def kept_elsewhere(models: Path, path: str, encoding: str, *, listed: bool) -> Path:
    """The toy bundle, its encoder's `scale` in `scale.bin`, which the graph calls `path` and the manifest may list."""

    def change(manifest: bundle_pb2.Bundle) -> None:
        folder = models / "tally" / "1"
        (folder / "scale.bin").write_bytes(np.float32(255).tobytes())
        content = hostile.elsewhere(onnx.load(folder / "encode.onnx"), path, encoding)
        (folder / "encode.onnx").write_bytes(content)
        (entry,) = (file for file in manifest.files if file.path == "encode.onnx")
        entry.CopyFrom(toybundle.listed(folder / "encode.onnx"))
        if listed:
            manifest.files.append(toybundle.listed(folder / "scale.bin"))

    return toybundle.write(models, change=change)


def codes(session: Session) -> Any:
    (code,) = session.run(["code"], {"image": np.full((2, 4, 3, 1), 51, np.uint8)})
    return code.tolist()


WHITE = [[pytest.approx(2.4), pytest.approx(0.2)]] * 2


@pytest.mark.parametrize("encoding", hostile.ENCODINGS)
def test_no_encoding_has_a_graph_read_a_file_that_nobody_has_hashed(tmp_path: Path, encoding: str) -> None:
    bundle = read_bundle(kept_elsewhere(tmp_path / "unlisted", "scale.bin", encoding, listed=False))
    role = bundle.manifest.roles[0]
    # Read beside the graph, as it would be where nobody prevents it.
    assert codes(Runtime("cpu", 1).open(bundle.folder / "encode.onnx")) == WHITE
    with pytest.raises(BundleError, match="a graph may keep data only in files of the manifest") as refusal:
        Runtime("cpu", 1).open(bundle.graph(role))
    assert refusal.value.file == "encode.onnx"

    listed = read_bundle(kept_elsewhere(tmp_path / "listed", "scale.bin", encoding, listed=True))
    assert codes(Runtime("cpu", 1).open(listed.graph(role))) == WHITE


def test_what_becomes_of_the_files_afterwards_changes_nothing(tmp_path: Path) -> None:
    bundle = read_bundle(kept_elsewhere(tmp_path, "scale.bin", "as usual", listed=True))
    (bundle.folder / "encode.onnx").write_bytes(b"another graph")
    (bundle.folder / "golden.npz").unlink()
    with (bundle.folder / "scale.bin").open("r+b") as scale:
        scale.write(np.float32(1).tobytes())
    session = Runtime("cpu", 1).open(bundle.graph(bundle.manifest.roles[0]))
    assert codes(session) == WHITE
    assert len(bundle.golden()["encode/in/image"]) == 3
    # Nor while it serves, although onnxruntime maps the file into memory; and the copy is gone with the bundle.
    with (bundle.folder / "scale.bin").open("r+b") as scale:
        scale.write(np.float32(2).tobytes())
    copies = bundle.data
    assert (copies / "scale.bin").exists()
    del bundle
    assert not copies.exists()
    assert codes(session) == WHITE


@pytest.mark.parametrize("path", ["../scale.bin", "/etc/hostname", "link.bin", "sub/../../scale.bin", "."])
def test_no_path_leads_out_of_the_files_of_the_manifest(tmp_path: Path, path: str) -> None:
    folder = kept_elsewhere(tmp_path, path, "as usual", listed=True)
    (tmp_path / "tally" / "scale.bin").write_bytes(np.float32(255).tobytes())
    (folder / "link.bin").symlink_to(folder / "scale.bin")
    bundle = read_bundle(folder)
    with pytest.raises(BundleError) as refusal:
        Runtime("cpu", 1).open(bundle.graph(bundle.manifest.roles[0]))
    assert refusal.value.file == "encode.onnx"
    assert "ancestral-" not in str(refusal.value)


def test_a_graph_in_onnxruntimes_own_format_is_no_graph(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "encode.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    folder = toybundle.write(tmp_path)
    onnxruntime.InferenceSession(folder / "encode.onnx", options, providers=["CPUExecutionProvider"])
    content = (tmp_path / "encode.ort").read_bytes()
    assert onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).get_outputs()
    with pytest.raises(BundleError, match="onnxruntime refuses it"):
        Runtime("cpu", 1).open(Graph("encode.onnx", content, tmp_path))


def test_a_file_that_cannot_be_read_now_is_no_fault_of_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toybundle.write(tmp_path)

    def denied(path: Path, *how: Any, **more: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PermissionError):
        read_bundle(folder)
