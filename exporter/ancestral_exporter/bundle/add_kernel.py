"""Gives a bundle that is there a kernel: a new version of it, since no version is ever changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ancestral_exporter.bundle.kernel import give_kernel, take_kernel
from ancestral_exporter.bundle.manifest import read_manifest
from ancestral_exporter.bundle.promote import check_source, copy_files
from ancestral_exporter.bundle.verify import verify_bundle
from ancestral_exporter.bundle.write import bundle_files, place, temporary, write_manifest

# Which bundle was given the kernel: a key of the provenance of the new version.
_ORIGIN = "kernel_added_to"


@dataclass(frozen=True)
class Added:
    """Where the new version lies, and what its kernel lacks, a line each."""

    path: Path
    remarks: Sequence[str]


def add_kernel(source: Path, targets: Sequence[str]) -> Added:
    """Write the next version of the bundle in `source`, beside it, with a kernel for these targets and no other.

    Raises UsageError where the source is no bundle, ExporterError where it or what was made of it fails verification,
    NotCovered where there is no kernel for it, NoNvrtc.
    """
    manifest = read_manifest(source)
    check_source(source)
    home = source.resolve().parent
    with temporary(home) as folder:
        take_kernel(manifest)
        copy_files(source, folder, manifest)
        remarks = give_kernel(folder, manifest, targets)
        manifest.provenance[_ORIGIN] = f"{manifest.name} version {manifest.version}"
        del manifest.files[:]
        manifest.files.extend(bundle_files(folder))
        write_manifest(folder, manifest)
        verify_bundle(folder, placed=False).raise_if_failed()
        return Added(place(folder, home, manifest), remarks)
