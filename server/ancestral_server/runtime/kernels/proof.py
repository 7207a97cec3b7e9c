"""Whether a kernel gives the recorded answers, and the same bytes in any company: tried in a process of its own.

A bad address costs a process its whole context on the device, and with it every model that it serves there; an endless
loop cannot be ended but with the process. So the one that serves launches nothing that another one has not.
"""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ancestral.v1 import bundle_pb2
from ancestral_server.errors import BundleError, DeviceLost
from ancestral_server.runtime.golden import check_labels, judge, recorded, replay_raster
from ancestral_server.runtime.kernels.driver import Driver, NoDevice
from ancestral_server.runtime.kernels.program import KernelProgram
from ancestral_server.runtime.kernels.variants import Device, NoKernel, usable
from ancestral_server.runtime.program import Meaning

Array = NDArray[Any]
# Samples that are painted, at the least: some in company, one of them left out, in another order.
LEAST_SAMPLES = 3
# How long a process may take to be gone that was killed; a guess.
KILL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Question:
    """What is to be proven: a role of a manifest, serialized, with the contents of its files and its recorded answers,
    on a device of a driver.
    """

    role: str
    manifest: bytes
    files: Mapping[str, bytes]
    golden: bytes
    index: int
    library: str


def ask(question: Question, seconds: float) -> None:
    """NoKernel, with the difference or how it ended, unless a kernel is proven within so many seconds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        said, complaint = process.communicate(pickle.dumps(question), seconds)
    except subprocess.TimeoutExpired:
        raise NoKernel(f"its proof did not end within {seconds:.3g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            # What hangs in the driver may not even be killed; it holds up nobody.
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILL_SECONDS)
    if process.returncode:
        last = complaint.decode(errors="replace").strip().splitlines()[-1:]
        raise NoKernel(": ".join([f"its proof crashed, {_ending(process.returncode)}", *last]))
    if said:
        raise NoKernel(f"its proof failed: {said.decode(errors='replace')}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def differences(question: Question) -> str:
    """How a kernel's answers differ from those that were recorded, or from each other; nothing if they do not."""
    manifest = bundle_pb2.Bundle.FromString(question.manifest)
    role = next(role for role in manifest.roles if role.name == question.role)
    driver = Driver(question.index, question.library)
    device = Device(driver.capability, driver.multiprocessors, driver.shared_bytes)
    with np.load(io.BytesIO(question.golden), allow_pickle=False) as arrays:
        inputs, expected = recorded(role, dict(arrays), manifest.golden.path)
    first: tuple[str, dict[Meaning, Array]] | None = None
    for variant in usable(role.kernel, device):
        name = f"{variant.target}, {variant.samples} samples to a block"
        batch = len(next(iter(inputs.values())))
        many = np.resize(np.arange(batch), max(batch, LEAST_SAMPLES))
        program = KernelProgram(role, manifest, driver, [variant], question.files, len(many))
        check_labels(program)
        whole = replay_raster(program, {meaning: array[many] for meaning, array in inputs.items()})
        try:
            judge(
                manifest.golden, program, inputs, {meaning: array[:batch] for meaning, array in whole.items()}, expected
            )
        except BundleError as error:
            return f"{name}: {error}"
        # Another number of them, the other way round.
        part = many[:0:-1]
        again = replay_raster(program, {meaning: array[part] for meaning, array in inputs.items()})
        if differs := _differ({meaning: array[:0:-1] for meaning, array in whole.items()}, again):
            return f"{name}: {differs} differs in its bytes between {len(many)} samples and {len(part)} of them"
        if first is None:
            first = name, whole
        elif differs := _differ(first[1], whole):
            return f"{name}: {differs} differs in its bytes from that of {first[0]}"
        program.close()
    return ""


def _differ(one: Mapping[Meaning, Array], other: Mapping[Meaning, Array]) -> str:
    """What differs, in any byte."""
    return ", ".join(
        bundle_pb2.Meaning.Name(meaning) for meaning in one if one[meaning].tobytes() != other[meaning].tobytes()
    )


def main() -> None:
    if sys.platform == "linux":
        # The kernel ends this process when the one that asks is gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    question = pickle.loads(sys.stdin.buffer.read())
    try:
        said = differences(question)
    except DeviceLost as error:
        said = str(error.__cause__)
    except (NoKernel, NoDevice) as error:
        # A device that this process cannot use, since others have taken its memory or keep it for themselves.
        said = str(error)
    sys.stdout.write(said)
    sys.stdout.flush()
    # What the driver does at the end is of no interest.
    os._exit(0)


if __name__ == "__main__":
    main()
