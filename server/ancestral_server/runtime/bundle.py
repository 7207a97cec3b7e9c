"""Reading a bundle: the manifest, its files, their hashes. Every refusal names the file and the reason."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError

SCHEMA = 1
MANIFEST = "bundle.json"
MAX_MANIFEST_BYTES = 16 * 2**20
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# In a graph: the entry {key: "location", value: path} of a tensor's external_data (onnx.proto), as far as the length of
# the path, a varint: seven bits a byte, the lowest first, and the eighth says that another byte follows.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x80-\xff]{0,4}[\x00-\x7f])")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest makes sense and whose files are what the manifest says."""

    folder: Path
    manifest: bundle_pb2.Bundle

    def graph(self, role: bundle_pb2.Role) -> Path:
        return self.folder / role.graph

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """The recorded arrays, `<role>/in/<tensor>` and `<role>/out/<tensor>`."""
        path = self.manifest.golden.path
        try:
            with np.load(self.folder / path, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # zipfile, zlib and numpy raise a dozen types of their own
            raise BundleError(path, f"cannot be read as .npz: {error}") from error


def forms(manifest: bundle_pb2.Bundle) -> Iterator[bundle_pb2.Role]:
    """The roles, and the lean forms of those that have one."""
    for role in manifest.roles:
        yield role
        if role.HasField("lean"):
            yield role.lean


def _check_lean(role: bundle_pb2.Role, refuse: Callable[[str], None]) -> None:
    lean = role.lean
    if lean.name != role.name or lean.HasField("lean"):
        refuse(f"role {role.name}: its lean form is of role {lean.name!r}, or has one itself")
    if {role.program, lean.program} != {bundle_pb2.PROGRAM_ONE_SHOT}:
        refuse(f"role {role.name}: only a one-shot program can have a lean form, which is one too")
    for side, all_ in ((lean.inputs, role.inputs), (lean.outputs, role.outputs)):
        known = {tensor.meaning: tensor for tensor in all_}
        for tensor in side:
            if known.get(tensor.meaning) != tensor:
                refuse(f"role {role.name}: its lean form has a tensor {tensor.name!r} that the role has not")


def read_bundle(folder: Path) -> Bundle:
    """Read and check `folder`; BundleError names the file at fault."""
    manifest = read_manifest(folder)
    if manifest.name != folder.parent.name or str(manifest.version) != folder.name:
        raise BundleError(
            MANIFEST,
            f"is of {manifest.name!r} version {manifest.version}, but lies in {folder.parent.name}/{folder.name}",
        )
    _check_files(folder, manifest)
    _check_roles(folder, manifest)
    return Bundle(folder, manifest)


def read_manifest(folder: Path) -> bundle_pb2.Bundle:
    """The manifest alone, its schema checked."""
    path = folder / MANIFEST
    # A pipe or a device could be read for ever.
    if not path.is_file():
        raise BundleError(MANIFEST, "is no file" if path.exists() else "is missing")
    try:
        if (size := path.stat().st_size) > MAX_MANIFEST_BYTES:
            raise BundleError(MANIFEST, f"has {size} bytes, must have at most {MAX_MANIFEST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(MANIFEST, f"cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits, too
        raise BundleError(MANIFEST, f"is not JSON (truncated?): {error}") from error
    if not isinstance(document, dict):
        raise BundleError(MANIFEST, "is not a JSON object")
    # Before parsing the rest: a newer schema may hold fields that this server cannot know.
    schema = document.get("schema", 0)
    if not isinstance(schema, int) or schema < 1:
        raise BundleError(MANIFEST, f"schema is {schema!r}, must be {SCHEMA}")
    if schema > SCHEMA:
        raise BundleError(
            MANIFEST, f"schema {schema} is newer than the {SCHEMA} that this server reads: update the server"
        )
    try:
        return json_format.ParseDict(document, bundle_pb2.Bundle(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise BundleError(MANIFEST, f"is not a bundle manifest: {error}") from error


def _check_files(folder: Path, manifest: bundle_pb2.Bundle) -> None:
    for file in manifest.files:
        pure = PurePosixPath(file.path)
        if not file.path or pure.is_absolute() or ".." in pure.parts:
            raise BundleError(MANIFEST, f"file path {file.path!r} leads out of the bundle")
        path = folder / pure
        try:
            if not path.is_file():
                raise BundleError(file.path, "is missing")
            size = path.stat().st_size
            if size != file.size_bytes:
                raise BundleError(file.path, f"has {size} bytes, the manifest says {file.size_bytes} (truncated?)")
            with path.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(file.path, f"cannot be read: {error.strerror}") from error
        if digest != file.sha256:
            raise BundleError(file.path, f"has SHA-256 {digest}, the manifest says {file.sha256}")


def _external_data(folder: Path, graph: str) -> Iterator[str]:
    """The files, relative to the folder, in which a graph keeps what is too large for it."""
    content = (folder / graph).read_bytes()
    for entry in _LOCATION.finditer(content):
        length = sum((byte & 127) << 7 * i for i, byte in enumerate(entry[1]))
        location = content[entry.end() : entry.end() + length].decode(errors="replace")
        yield posixpath.normpath(posixpath.join(posixpath.dirname(graph), location))


def _check_roles(folder: Path, manifest: bundle_pb2.Bundle) -> None:
    def refuse(problem: str) -> None:
        raise BundleError(MANIFEST, problem)

    image = manifest.image
    if not NAME.fullmatch(manifest.name):
        refuse(f"name {manifest.name!r} does not match {NAME.pattern}")
    if min(image.height, image.width, image.channels) < 1 or not 2 <= image.levels <= 256:
        refuse(f"image {image.height}x{image.width}x{image.channels} with {image.levels} levels is not an image")
    files = {file.path for file in manifest.files}
    if manifest.golden.path not in files:
        refuse(f"golden data {manifest.golden.path!r} is not among its files")
    if not manifest.roles:
        refuse("has no roles")
    names: set[str] = set()
    for role in manifest.roles:
        if not role.name or role.name in names:
            refuse(f"role {role.name!r} is unnamed or there twice")
        names.add(role.name)
        if role.HasField("lean"):
            _check_lean(role, refuse)
    for role in forms(manifest):
        if role.program not in (bundle_pb2.PROGRAM_ONE_SHOT, bundle_pb2.PROGRAM_RASTER):
            refuse(f"role {role.name}: program {role.program} is unknown")
        if role.program == bundle_pb2.PROGRAM_RASTER and role.name != "sample":
            refuse(f"role {role.name}: only sample can be a raster program")
        if role.graph not in files:
            refuse(f"role {role.name}: graph {role.graph!r} is not among its files")
        for side in (role.inputs, role.outputs):
            meanings = [tensor.meaning for tensor in side]
            if len(set(meanings)) != len(meanings) or bundle_pb2.MEANING_UNSPECIFIED in meanings:
                refuse(f"role {role.name}: tensors must have one meaning each, each once")
    # onnxruntime would read such a file unasked, and nobody would have checked its hash.
    for graph in sorted({role.graph for role in forms(manifest)}):
        for path in _external_data(folder, graph):
            if path not in files:
                raise BundleError(graph, f"keeps data in {path!r}, which is not among the files of the manifest")
