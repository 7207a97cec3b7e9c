"""Of each state a sample reads its own rows, and zeros above its image, whatever happens to those beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import toybundle
from ancestral_server.errors import BundleError
from ancestral_server.runtime.bundle import Bundle, read_bundle
from ancestral_server.runtime.golden import replay
from ancestral_server.runtime.history import History
from ancestral_server.runtime.onnx_raster import OnnxRasterProgram
from ancestral_server.runtime.session import Runtime


def program(bundle: Bundle) -> OnnxRasterProgram:
    role = next(role for role in bundle.manifest.roles if role.name == "sample")
    return OnnxRasterProgram(role, Runtime("cpu", 1).open(bundle.graph(role)), bundle.manifest)


@pytest.mark.parametrize("back", [1, 2, 3])
def test_samples_come_go_and_stay_behind_and_each_reads_its_own_rows(tmp_path: Path, back: int) -> None:
    painted = program(read_bundle(toybundle.write(tmp_path, rows_back=back)))
    history = History(painted.fresh_states(0), painted.rows_back)
    random = np.random.default_rng(back)
    # Of each sample what its runs have given, by a number that is nobody else's; zeros above its image.
    samples: list[list[float]] = []
    fresh = 0.0
    for _ in range(600):
        match random.integers(4):
            case 0 if len(samples) < 7:
                history.clear(np.array([len(samples)]))
                samples.append([0.0] * back)
            case 1 if len(samples) > 1:
                gone = int(random.integers(len(samples)))
                if gone < len(samples) - 1:
                    history.move(np.array([len(samples) - 1]), np.array([gone]))
                    samples[gone] = samples[-1]
                samples.pop()
            case 2 if samples:
                order = [int(place) for place in random.permutation(len(samples))]
                history.reorder(order)
                samples = [samples[place] for place in order]
            case _ if samples:
                (oldest,) = history.oldest(len(samples))
                assert [float(row) for row in oldest[:, 0, 0]] == [rows[-back] for rows in samples]
                if random.random() < 0.2:
                    continue  # the run failed
                count = int(random.integers(1, len(samples) + 1)) if random.random() < 0.3 else len(samples)
                newest = np.full((count + int(random.integers(3)), toybundle.WIDTH, 1), -1, np.float32)
                for sample in range(count):
                    fresh += 1
                    newest[sample] = fresh
                    samples[sample].append(fresh)
                history.add([newest], count, len(samples))
    assert fresh > 100


def test_recorded_answers_are_replayed_with_the_rows_that_a_state_reads(tmp_path: Path) -> None:
    bundle = read_bundle(toybundle.write(tmp_path, rows_back=3))
    replay(bundle, {"sample": program(bundle)})
    bundle.manifest.roles[2].states[0].rows_back = 2
    with pytest.raises(BundleError, match=r"sample\.onnx: role sample: the golden replay differs"):
        replay(bundle, {"sample": program(bundle)})
