"""The families by name: those of this package, of other packages, and of a file of somebody's own.

A family is a subclass of `ImageModel`. A package offers one by an entry point of the group `ancestral.families`, whose
name is the family's; a recipe names a file's as `family = "my_model.py:MyVAE"`, from the recipe's folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ancestral.text import one_line
from ancestral_exporter.errors import ExporterError, UsageError, nearest
from ancestral_exporter.models.base import ImageModel

GROUP = "ancestral.families"
_OURS = {
    "vae": "ancestral_exporter.models.vae:VAE",
    "pixelcnn": "ancestral_exporter.models.pixelcnn:GatedPixelCNN",
    "semi-supervised-vae": "ancestral_exporter.models.semi_supervised:SemiSupervisedVAE",
    "autoencoder": "ancestral_exporter.models.autoencoder:Autoencoder",
    "gan": "ancestral_exporter.models.gan:GAN",
    "masked-pixelcnn": "ancestral_exporter.models.masked_pixelcnn:MaskedPixelCNN",
    "pixelrnn": "ancestral_exporter.models.pixelrnn:PixelRNN",
    "classifier": "ancestral_exporter.models.classifier:Classifier",
}


@dataclass(frozen=True)
class Family:
    """model_type: its class. sha256: of its file, where that is no part of an installed package."""

    model_type: type[ImageModel]
    sha256: str = ""


def names() -> list[str]:
    """Every family that has a name here."""
    return [*_OURS, *sorted(entry_points(group=GROUP).names)]


def find(name: str, folder: Path) -> Family:
    """The family of that name; `folder` is where a file's path begins. Raises UsageError."""
    if ":" in name:
        return _of_file(name, folder)
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        return Family(getattr(import_module(module), attribute))
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise UsageError(
            f"unknown family {name!r}{nearest(name, names())}; there are: {', '.join(names())}, or a file's as "
            '"my_model.py:MyModel"'
        )
    try:
        value = found[0].load()
    except Exception as error:
        raise UsageError(f"family {name!r} ({found[0].value}): {_told(error)}") from error
    return Family(_checked(value, f"family {name!r} ({found[0].value})"))


def _of_file(name: str, folder: Path) -> Family:
    file, _, attribute = name.rpartition(":")
    path = (folder / file).resolve()
    if not path.is_file():
        raise UsageError(f"family {name!r}: no file {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # One module for each content: a checkpoint's process must find the class again, and another file is another model.
    title = f"ancestral_family_{digest[:16]}"
    if title not in sys.modules:
        spec = importlib.util.spec_from_file_location(title, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"family {name!r}: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[title] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[title]
            if isinstance(error, KeyboardInterrupt):
                raise
            raise UsageError(f"family {name!r}: {path} raises {_told(error)}") from error
    module = sys.modules[title]
    if not hasattr(module, attribute):
        raise UsageError(f"family {name!r}: {path} has no {attribute!r}")
    return Family(_checked(getattr(module, attribute), f"family {name!r}"), digest)


@contextmanager
def answering(name: str, model_type: type[ImageModel]) -> Iterator[None]:
    """Whatever a family that is not of this package raises inside is told in one line that names it and its place."""
    try:
        yield
    except ExporterError:
        raise
    except (Exception, SystemExit) as error:
        if model_type.__module__.startswith(f"{__package__}."):
            raise
        file = getattr(sys.modules.get(model_type.__module__), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f", line {lines[-1]} of {file}" if lines else ""
        raise UsageError(f"family {name!r}: raises {_told(error)}{place}") from error


def _checked(value: Any, what: str) -> type[ImageModel]:
    """The class, if it is a family that can be built."""
    if not (isinstance(value, type) and issubclass(value, ImageModel)):
        raise UsageError(f"{what}: is no subclass of ancestral_exporter.models.base.ImageModel")
    missing = [name for name in ("family", "settings_type", "figure") if not hasattr(value, name)]
    missing += sorted(value.__abstractmethods__)
    if missing:
        raise UsageError(f"{what}: lacks {', '.join(missing)}")
    return value


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"
