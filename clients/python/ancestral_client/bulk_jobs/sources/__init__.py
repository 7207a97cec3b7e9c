"""What the input of a job is, and how it is cut: Parquet, a folder of pictures, or an array in a file."""

from __future__ import annotations

from pathlib import Path

from ancestral_client import files, folders, parquet
from ancestral_client.bulk_jobs.sources.array_file import ArrayFile
from ancestral_client.bulk_jobs.sources.parquet_files import ParquetFiles
from ancestral_client.bulk_jobs.sources.picture_folder import Pictures, picture_suffixes
from ancestral_client.bulk_jobs.sources.source import Chunk, Part, Reader, Source
from ancestral_client.replacing import FileProblem

__all__ = ["ArrayFile", "Chunk", "ParquetFiles", "Part", "Pictures", "Reader", "Source", "source_of"]


def source_of(path: Path, column: str | None, *, keep_images: bool) -> Source:
    """What there is to read. FileProblem where it is nothing of the kind, or empty."""
    if not path.exists():
        raise FileProblem(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    tables, pictured, others = [], [], 0
    if path.is_dir():
        readable = picture_suffixes()
        for file in folders.files_below(path):
            kind = file.suffix.lower()
            if kind in parquet.SUFFIXES:
                # What begins with _ is what a writer of Parquet notes for itself; of cameras it is a picture.
                if not any(part.startswith("_") for part in file.relative_to(path).parts):
                    tables.append(file)
            elif kind in readable:
                pictured.append(file)
            else:
                others += 1
        if tables and pictured:
            raise FileProblem(
                f"{path}: holds Parquet ({_name(tables[0], path)}) and pictures ({_name(pictured[0], path)}); which "
                "of them is meant? Give a folder with one kind"
            )
        if not tables and not pictured:
            raise FileProblem(
                f"{path}: holds no Parquet and no pictures" + (f", but {others} other files" if others else "")
            )
    elif suffix in parquet.SUFFIXES:
        tables = [path]
    elif not files.is_array(path):
        pictured = [path]
    if tables:
        return ParquetFiles.of(path, tables, column, keep_images=keep_images, left_out=others)
    for wanted, option in ((column is not None, "--column"), (keep_images, "--keep-images")):
        if wanted:
            raise FileProblem(f"{option} is for Parquet, and {path} is none")
    if pictured:
        base = path if path.is_dir() else path.parent
        return Pictures(base, tuple(str(file.relative_to(base)) for file in pictured), others)
    return ArrayFile.of(path)


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()
