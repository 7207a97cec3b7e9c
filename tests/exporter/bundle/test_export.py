from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from ancestral.v1 import bundle_pb2
from ancestral_exporter.bundle.export import export_graphs, graph_roles
from ancestral_exporter.bundle.feeds import original_answers
from ancestral_exporter.bundle.runtime import open_session, run_role, signature_problems
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
    assert torch._dynamo.config.fake_tensor_cache_enabled
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.onnx", "second.onnx"]


class Twice(nn.Module):
    """Two outputs of a net that is another graph's, too: of which one is all that the other gives."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, values: torch.Tensor, unused: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net(values), self.net(values).mean(1, keepdim=True)


class Alone(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.net(values),)


def test_each_graph_of_a_trace_has_its_own_and_no_more(tmp_path: Path) -> None:
    """Graphs name, type and shape their tensors as they please: alike what differs, and otherwise what is the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.SiLU())
    latent, mean, features = bundle_pb2.MEANING_LATENT, bundle_pb2.MEANING_MEAN, bundle_pb2.MEANING_FEATURES
    graphs = [
        one_shot("twice", [tensor("x", latent, (3,)), tensor("y", latent, (2,))],
                 [tensor("mean", mean, (4,)), tensor("features", features, (1,))], Twice(net)),
        one_shot("alone", [tensor("x", latent, (3,))], [tensor("features", features, (4,))], Alone(net)),
        one_shot("other", [tensor("x", latent, (5,))], [tensor("mean", mean, (5,))], Same()),
    ]  # fmt: skip
    export_graphs(graphs, tmp_path)
    for graph in graphs:
        session = open_session(tmp_path / graph.file)
        (role,) = graph_roles(graph)
        assert not signature_problems(session, role)
        for count in (1, 3):
            feeds = {
                spec.name: np.random.default_rng(0).random((count, *spec.shape), np.float32) for spec in role.inputs
            }
            wanted = original_answers(graph, role, feeds)
            for name, value in run_role(session, role, feeds, 0).items():
                np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)
    sizes = {
        graph.file: sum(math.prod(w.dims) for w in onnx.load(tmp_path / graph.file).graph.initializer)
        for graph in graphs
    }
    assert sizes["alone.onnx"] == 3 * 4 + 4
    assert sizes["other.onnx"] <= 1


def test_a_module_that_gives_more_than_its_roles_name_is_named(tmp_path: Path) -> None:
    latent, mean = (tensor(name, bundle_pb2.MEANING_LATENT, (3,)) for name in ("x", "mean"))
    other = tensor("y", bundle_pb2.MEANING_LATENT, (3,))
    with pytest.raises(Exception, match=r"twice\.onnx: its module returns 2 tensors, its roles name 1 outputs"):
        export_graphs([one_shot("twice", [latent, other], [mean], Twice(nn.Identity()))], tmp_path)


class Plain(nn.Module):
    """Of operators that torch.onnx has a form of, and of all that `bundle.decomposition` has."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(1, 2, 4, stride=2, padding=1)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        places = self.up(values.reshape(-1, 1, 1, 3)).movedim(1, -1)  # [N,2,6,2]
        return ((torch.tensor([1.0, 2.0]) - (1 - places).double().to("cpu", torch.float32)).flatten(1),)


class Composed(nn.Module):
    """With an operator that is several others."""

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        return (nn.functional.one_hot(values.argmax(1), 24).float(),)


@pytest.mark.parametrize(("net", "traced_again"), [(Plain, False), (Composed, True)])
def test_what_needs_no_decomposition_is_not_traced_again(
    net: type[nn.Module], traced_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompose, asked = torch.export.ExportedProgram.run_decompositions, list[object]()

    def spy(program: torch.export.ExportedProgram, *arguments: Any) -> torch.export.ExportedProgram:
        asked.append(program)
        again: torch.export.ExportedProgram = decompose(program, *arguments)
        return again

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", spy)
    torch.manual_seed(0)
    latent = tensor("x", bundle_pb2.MEANING_LATENT, (3,))
    graph = one_shot("net", [latent], [tensor("y", bundle_pb2.MEANING_FEATURES, (24,))], net())
    export_graphs([graph], tmp_path)
    assert bool(asked) is traced_again
    (role,) = graph_roles(graph)
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 3), np.float32)}
    found = run_role(open_session(tmp_path / graph.file), role, feeds, 0)["y"]
    np.testing.assert_allclose(found, original_answers(graph, role, feeds)["y"], rtol=1e-5, atol=1e-6)
