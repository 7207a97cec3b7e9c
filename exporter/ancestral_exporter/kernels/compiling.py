"""One compilation by NVRTC, in a process of its own whose addresses are the same each time.

The code depends on where NVRTC's memory lies (13.0.88, tiles-pixelcnn, 1 sample, compute_80): of 50 processes with
random addresses, as Linux gives them, 4 loaded shared memory by other instructions, and of 12 compilations one after
another in a process one did; of 50 processes with fixed addresses none.

The process is `python -m ancestral_exporter.kernels.compiling`, and what it is asked and answers is pickled.
"""

from __future__ import annotations

import ctypes
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# personality(2) of Linux: what it is asked by, and the flag.
_QUERY, _ADDR_NO_RANDOMIZE = 0xFFFFFFFF, 0x0040000


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
    command = [sys.executable, "-m", __name__]
    with _fixed_addresses():
        done = subprocess.run(command, input=pickle.dumps(job), capture_output=True, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(": ".join([f"NVRTC's process ended with {done.returncode}", *last]))
    made = pickle.loads(done.stdout)
    assert isinstance(made, Made)
    return made


def repeatable() -> bool:
    """Whether code is the same each time: not elsewhere than on Linux, nor in containers that forbid personality(2)."""
    with _fixed_addresses() as fixed:
        return fixed


@contextmanager
def _fixed_addresses() -> Iterator[bool]:
    """What this thread starts within has no random addresses, where that is allowed; whether it is."""
    personality = getattr(ctypes.CDLL(None), "personality", None)
    before = -1 if personality is None else personality(ctypes.c_ulong(_QUERY))
    if personality is None or before < 0 or personality(ctypes.c_ulong(before | _ADDR_NO_RANDOMIZE)) < 0:
        yield False
        return
    try:
        yield True
    finally:
        personality(ctypes.c_ulong(before))


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
