"""Reading a bundle: the manifest, its files, their hashes. Every refusal names the file and the reason.

What is read is what was hashed: graphs, golden data and kernels are read once and kept, and what a graph keeps in other
files is copied to a folder of our own meanwhile. onnxruntime sees nothing else, however a graph may say where its data
are, and whatever becomes of the bundle's folder afterwards: it maps such files into memory for as long as the graph
serves.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from ancestral.bundle import rules
from ancestral.bundle.manifest import MANIFEST, NoManifest, parse
from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError
from ancestral_server.runtime.session import Graph

# Recorded answers, unpacked, are all in memory while they are replayed. Those of the MNIST PixelCNN have 3 MiB.
MAX_GOLDEN_BYTES = 2**31
# Wherever a graph keeps data in another file it says so by this key (onnx.proto), whose bytes no encoding changes.
_ELSEWHERE = b"location"
# A file is hashed by so much at a time: enough that Python costs nothing, and little beside what a model takes.
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest makes sense and whose files are what the manifest says, as they were when it was read."""

    folder: Path
    manifest: bundle_pb2.Bundle
    # Graphs, golden data and what kernels consist of, by path.
    contents: Mapping[str, bytes]
    # Copies of the other files, if a graph keeps data in any; else a folder that cannot exist.
    data: Path

    def graph(self, role: bundle_pb2.Role) -> Graph:
        return Graph(role.graph, self.contents[role.graph], (self.data / role.graph).parent)

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """The recorded arrays, `<role>/in/<tensor>` and `<role>/out/<tensor>`."""
        path = self.manifest.golden.path
        content = io.BytesIO(self.contents[path])
        try:
            with zipfile.ZipFile(content) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_GOLDEN_BYTES:
                raise BundleError(path, f"has {size} bytes unpacked, must have at most {MAX_GOLDEN_BYTES}")
            with np.load(content, allow_pickle=False) as arrays:
                return dict(arrays)
        except BundleError:
            raise
        except Exception as error:  # zipfile, zlib and numpy raise a dozen types of their own
            raise BundleError(path, f"cannot be read as .npz: {error}") from error


def read_bundle(folder: Path) -> Bundle:
    """Read and check `folder`; BundleError names the file at fault, OSError says that one cannot be read now."""
    manifest = read_manifest(folder)
    if manifest.name != folder.parent.name or str(manifest.version) != folder.name:
        raise BundleError(
            MANIFEST,
            f"is of {manifest.name!r} version {manifest.version}, but lies in {folder.parent.name}/{folder.name}",
        )
    for problem in rules.contradictions(manifest):
        raise BundleError(MANIFEST, problem)
    for file in manifest.files:
        _check_size(folder, file)
    ours = {manifest.golden.path, *(role.graph for role in manifest.roles)}
    kept = ours | {path for role in manifest.roles for path in _kernel_files(role)}
    contents = {file.path: _read(folder, file) for file in manifest.files if file.path in kept}
    others = [file for file in manifest.files if file.path not in ours]
    # A path below a file: nothing can be there.
    data = folder / MANIFEST / "data"
    copies = None
    if others and any(_ELSEWHERE in contents[role.graph] for role in manifest.roles):
        copies = data = Path(tempfile.mkdtemp(prefix="ancestral-"))
    bundle = Bundle(folder, manifest, contents, data)
    if copies is not None:
        # At the latest when nobody refers to the bundle any more. What is mapped into memory stays until it is not.
        weakref.finalize(bundle, shutil.rmtree, copies, ignore_errors=True)
    for file in others:
        _check_content(folder, file, copies)
    return bundle


def _kernel_files(role: bundle_pb2.Role) -> set[str]:
    """The files of a role's kernel, if it has one."""
    if not role.HasField("kernel"):
        return set()
    return {role.kernel.weights, *(variant.code for variant in role.kernel.variants)}


def read_manifest(folder: Path) -> bundle_pb2.Bundle:
    """The manifest alone, within its limits: it may be shown, whatever else is wrong."""
    path = folder / MANIFEST
    # A pipe or a device could be read for ever.
    if not path.is_file():
        raise BundleError(MANIFEST, "is no file" if path.exists() else "is missing")
    if (size := path.stat().st_size) > rules.MAX_MANIFEST_BYTES:
        raise BundleError(MANIFEST, f"has {size} bytes, must have at most {rules.MAX_MANIFEST_BYTES}")
    try:
        manifest = parse(path.read_bytes())
    except NoManifest as error:
        raise BundleError(MANIFEST, str(error)) from error
    for problem in rules.limits(manifest):
        raise BundleError(MANIFEST, problem)
    return manifest


def _check_size(folder: Path, file: bundle_pb2.BundleFile) -> None:
    path = folder / file.path
    if not path.is_file():
        raise BundleError(file.path, "is missing")
    size = path.stat().st_size
    if size != file.size_bytes:
        raise BundleError(file.path, f"has {size} bytes, the manifest says {file.size_bytes} (truncated?)")


def _read(folder: Path, file: bundle_pb2.BundleFile) -> bytes:
    content = (folder / file.path).read_bytes()
    _check_digest(file, hashlib.sha256(content).hexdigest())
    return content


def _check_content(folder: Path, file: bundle_pb2.BundleFile, copies: Path | None) -> None:
    """Check the hash of a file, and copy it meanwhile to `copies`."""
    with (folder / file.path).open("rb") as content:
        if copies is None:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        else:
            copy = copies / file.path
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("wb") as target:
                digest = _copy(content, target)
    _check_digest(file, digest)


def _copy(content: BinaryIO, target: BinaryIO) -> str:
    """Copy a file; the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while chunk := content.read(_CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _check_digest(file: bundle_pb2.BundleFile, digest: str) -> None:
    if digest != file.sha256:
        raise BundleError(file.path, f"has SHA-256 {digest}, the manifest says {file.sha256}")
