from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.export import export_graphs
from ancestral_exporter.models.roles import one_shot, tensor


class Same(nn.Module):
    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        return (values + 1,)


def test_the_table_of_operators_is_made_once_and_torch_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registration: Any = importlib.import_module("torch.onnx._internal.exporter._registration")
    before, read, made = vars(registration.ONNXRegistry)["from_torchlib"], registration._get_overload, list[str]()

    def count(name: str) -> Any:
        made.append(name)
        return read(name)

    latent, mean = (tensor(name, bundle_pb2.MEANING_LATENT, (3,)) for name in ("latent", "mean"))
    export_graphs([one_shot("first", [latent], [mean], Same())], tmp_path)
    monkeypatch.setattr(registration, "_get_overload", count)
    export_graphs([one_shot("second", [latent], [mean], Same())], tmp_path)
    assert made == []
    # What is counted is what makes it.
    registration.ONNXRegistry.from_torchlib()
    assert made
    assert vars(registration.ONNXRegistry)["from_torchlib"] is before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "second.onnx"]
