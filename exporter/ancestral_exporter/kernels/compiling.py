"""One compilation by NVRTC, in a process of its own.

The code depends on what NVRTC's memory held before: of 12 compilations of one kernel, one after another in a process
(13.0.88, tiles-pixelcnn, 1 sample, compute_80), one loaded shared memory by other instructions; of two at once in
threads one did; of 28 that each had a process of its own, none.

The process is `python -m ancestral_exporter.kernels.compiling`, and what it is asked and answers is pickled.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """A source file's name and text, the text of the config.h that it includes, and for which target it is compiled."""

    name: str
    source: bytes
    config: str
    target: str


@dataclass(frozen=True)
class Made:
    """What the compiler made, empty where it failed: then `error` is NVRTC's name for that. log: what it said."""

    content: bytes
    log: str
    error: str = ""


def compiled(job: Job) -> Made:
    """Compile in a new process. Raises RuntimeError where that ends otherwise than by an answer."""
    done = subprocess.run([sys.executable, "-m", __name__], input=pickle.dumps(job), capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(": ".join([f"NVRTC's process ended with {done.returncode}", *last]))
    made = pickle.loads(done.stdout)
    assert isinstance(made, Made)
    return made


def _compile(job: Job) -> Made:
    from cuda.bindings import nvrtc

    program = result(nvrtc.nvrtcCreateProgram(job.source, job.name.encode(), 1, [job.config.encode()], [b"config.h"]))
    ptx = job.target.startswith("compute")
    options = [f"-arch={job.target}".encode(), b"-std=c++17", b"-fmad=false"]
    if not ptx:
        options.append(b"--ptxas-options=-v")
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = bytearray(result(nvrtc.nvrtcGetProgramLogSize(program)))
    result(nvrtc.nvrtcGetProgramLog(program, log))
    said = log.decode(errors="replace")
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        return Made(b"", said, error.name)
    size, get = (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX) if ptx else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    content = bytearray(result(size(program)))
    result(get(program, content))
    return Made(bytes(content), said)


def result(answer: tuple[Any, ...]) -> Any:
    """What a function of NVRTC gives beside its status. Raises RuntimeError where that is an error."""
    status, *values = answer
    if int(status):
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if len(values) == 1 else values


def main() -> None:
    # Known to whoever asked by the module's name, not as __main__.
    from ancestral_exporter.kernels import compiling

    made = compiling._compile(pickle.loads(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(pickle.dumps(made))


if __name__ == "__main__":
    main()
