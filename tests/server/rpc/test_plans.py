"""What is found out about a request holds for others that differ in id and elements only, and for no others."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

import toybundle
from ancestral.v1 import bundle_pb2
from ancestral_server.catalog import ModelVersion, State
from ancestral_server.errors import InvalidArgument
from ancestral_server.rpc.open_inference import infer, plans
from ancestral_server.rpc.open_inference.plans import Plans
from ancestral_server.rpc.repeats import MOST_OTHER_BYTES
from ancestral_server.runtime.bundle import read_bundle
from ancestral_server.runtime.program import OneShotProgram, Program
from ancestral_server.runtime.session import Runtime
from inference import open_inference_service_pb2 as oip
from openinference import ask, with_parameters

SETTINGS: Any = SimpleNamespace(max_images=8, max_sample_count=8, max_message_bytes=10**6)
IMAGE = bundle_pb2.MEANING_IMAGE


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    bundle = read_bundle(toybundle.write(Path(tmp_path_factory.mktemp("models"))))
    role = next(role for role in bundle.manifest.roles if role.name == "encode")
    return {"encode": OneShotProgram(role, Runtime("cpu", 1).open(bundle.graph(role)), bundle.manifest)}


@pytest.fixture
def model(programs: dict[str, Program]) -> ModelVersion:
    return served(programs)


def served(programs: dict[str, Program], version: int = 1) -> ModelVersion:
    endpoints: Any = dict.fromkeys(programs)
    return ModelVersion("tally", version, State.SERVING, programs=programs, endpoints=endpoints)


def pixels(value: int, rows: int = 1) -> np.ndarray[Any, Any]:
    return np.full((rows, 4, 3, 1), value, np.uint8)


class _Catalog(dict[str, ModelVersion]):
    """Of one model, which may be replaced."""

    changes = 0

    def serve(self, model: ModelVersion) -> None:
        self[model.name] = model
        self.changes += 1

    def find(self, name: str, version: int) -> ModelVersion:
        return self[name]


@pytest.fixture
def catalog(model: ModelVersion) -> _Catalog:
    return _Catalog({model.name: model})


@pytest.fixture
def known(catalog: Any) -> Plans:
    return Plans(catalog, SETTINGS)


def read(plans: Plans, request: oip.ModelInferRequest) -> infer.Ask:
    return infer.read(plans, oip.ModelInferRequest.FromString(request.SerializeToString()))


def test_numbered_requests_have_one_plan_and_keep_their_ids_and_elements(known: Plans) -> None:
    asks = [read(known, ask("tally", id=str(i), image=pixels(i))) for i in range(5)]
    assert asks[0].plan is not asks[1].plan is asks[2].plan is asks[3].plan is asks[4].plan
    assert [asked.id for asked in asks] == ["0", "1", "2", "3", "4"]
    for i, asked in enumerate(asks):
        assert np.array_equal(asked.inputs[IMAGE], pixels(i))


def other(**parameters: int) -> oip.ModelInferRequest:
    return with_parameters(ask("tally", image=pixels(9)), **parameters)


@pytest.mark.parametrize(
    "request_",
    [
        ask("tally.encode", image=pixels(9)),
        ask("tally", version="1", image=pixels(9)),
        ask("tally", image=pixels(9, rows=2)),
        ask("tally", outputs=("code",), image=pixels(9)),
        other(priority=2),
        other(timeout=5),
        other(seed=1),
    ],
    ids=lambda request: str(request).replace("\n", " ")[:60],
)
def test_what_differs_in_anything_else_has_another_plan(known: Plans, request_: oip.ModelInferRequest) -> None:
    usual = [read(known, ask("tally", image=pixels(9))) for _ in range(3)][-1]
    asked = [read(known, request_) for _ in range(3)][-1]
    assert asked.plan is not usual.plan
    assert asked.plan.rows == len(asked.inputs[IMAGE]) == request_.inputs[0].shape[0]
    assert asked.plan.parameters.seed == (1 if "seed" in request_.parameters else None)
    assert read(known, ask("tally", image=pixels(9))).plan is usual.plan


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([b"123"], "raw_input_contents[0]: has 3 bytes"),
        ([bytes(12), b""], "raw_input_contents: holds 2 tensors, must hold 1"),
        ([], "inputs[0].contents.uint_contents: holds 0 elements"),
    ],
)
def test_the_elements_of_a_known_request_are_checked_each_time(known: Plans, raw: list[bytes], words: str) -> None:
    for i in range(3):
        read(known, ask("tally", image=pixels(i)))
        bad = ask("tally", image=pixels(i))
        bad.raw_input_contents[:] = raw
        with pytest.raises(InvalidArgument) as refused:
            read(known, bad)
        assert words in str(refused.value)


def test_a_plan_is_made_anew_when_the_catalog_changes_and_keeps_no_model_that_is_gone(
    programs: dict[str, Program], catalog: _Catalog, known: Plans
) -> None:
    request = ask("tally", image=pixels(1))
    for version in (1, 2, 1, 2):
        catalog.serve(served(programs, version))
        asks = [read(known, request) for _ in range(3)]
        assert asks[1].plan is asks[2].plan
        assert [asked.plan.reply.model_version for asked in asks] == [str(version)] * 3
        assert all(asked.model is catalog["tally"] for asked in asks)
    watched = ref(catalog["tally"])
    catalog.serve(served(programs, version=3))
    asks.clear()
    gc.collect()
    assert known._plans
    assert watched() is None


def test_what_does_not_come_again_leaves_nothing_behind(known: Plans) -> None:
    for seed in range(200):
        read(known, other(seed=seed))
        read(known, ask("tally", typed=True, image=pixels(1)))
    large = ask("tally", image=pixels(1))
    large.parameters["headers"].string_param = "x" * MOST_OTHER_BYTES
    for _ in range(3):
        assert read(known, large).plan.rows == 1
    assert not known._plans
    assert len(known._once) <= plans.MOST_PLANS


def test_so_many_plans_are_kept_and_no_more(known: Plans) -> None:
    for seed in range(2 * plans.MOST_PLANS):
        for _ in range(3):
            asked = read(known, other(seed=seed))
    assert len(known._plans) <= plans.MOST_PLANS
    # Those that came last are known.
    assert read(known, other(seed=2 * plans.MOST_PLANS - 1)).plan is asked.plan
