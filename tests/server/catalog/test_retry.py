"""Which refusals are for a passing reason, and when they are tried again."""

from __future__ import annotations

import errno
import os
import zipfile

import pytest

from ancestral_server.catalog.retry import LONGEST_SECONDS, Retries, passing
from ancestral_server.errors import BundleError, OutOfMemory

# As onnxruntime 1.31 and Python 3.11 said it where it was provoked.
NO_THREAD = (
    "/onnxruntime_src/onnxruntime/core/platform/posix/env.cc:327 onnxruntime::{anonymous}::PosixThread::PosixThread() "
    "pthread_create failed, error code: 11 error msg: Resource temporarily unavailable"
)
NO_FILE_LEFT = "[ONNXRuntimeError] : 1 : FAIL : Load model from x/encode.onnx failed:system error number 24"
NO_PERMISSION = "[ONNXRuntimeError] : 1 : FAIL : Load model from x/encode.onnx failed:system error number 13"


def refused_for(cause: Exception) -> BundleError:
    try:
        raise BundleError("encode.onnx", "onnxruntime refuses it") from cause
    except BundleError as error:
        return error


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "encode.onnx")


@pytest.mark.parametrize(
    "cause",
    [
        *map(
            system_error,
            (
                errno.EACCES,
                errno.EPERM,
                errno.EMFILE,
                errno.ENFILE,
                errno.ENOMEM,
                errno.EIO,
                errno.EAGAIN,
                errno.ESTALE,
            ),
        ),
        MemoryError(),
        OutOfMemory("out of memory: bad_alloc"),
        RuntimeError("can't start new thread"),
        RuntimeError("Failed to allocate memory for requested buffer of size 53687091200"),
        RuntimeError(NO_THREAD),
        RuntimeError(NO_FILE_LEFT),
        RuntimeError(NO_PERMISSION),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_shortages_and_disks_that_do_not_answer_pass(cause: Exception) -> None:
    assert passing(cause)
    assert passing(refused_for(cause))


@pytest.mark.parametrize(
    "cause",
    [
        BundleError("encode.onnx", "has SHA-256 1, the manifest says 2"),
        *map(system_error, (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)),
        OSError("Failed to interpret file as a pickle"),
        zipfile.BadZipFile("File is not a zip file"),
        RuntimeError("[ONNXRuntimeError] : 3 : NO_SUCHFILE : Load model failed. File doesn't exist"),
        RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model failed:system error number 2"),
        RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed."),
        ValueError("cannot reshape array"),
    ],
    ids=str,
)
def test_what_the_files_are_does_not(cause: Exception) -> None:
    assert not passing(cause)
    assert not passing(refused_for(cause))


def test_pauses_double_up_to_five_minutes() -> None:
    retries, key, now = Retries(), ("tally", 1), 1000.0
    assert retries.due(key, now)
    pauses = []
    for _ in range(12):
        retries.failed(key, now)
        pause = 0.0
        while not retries.due(key, now + pause):
            pause += 1
        pauses.append(pause)
        now += pause
    assert pauses[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert set(pauses[8:]) == {LONGEST_SECONDS}
    for _ in range(10_000):  # nor does the count ever end in a number that is too large
        retries.failed(key, now)
    assert retries.due(key, now + LONGEST_SECONDS)
    assert not retries.due(key, now + LONGEST_SECONDS - 1)


def test_each_version_has_pauses_of_its_own_which_begin_anew_once_it_is_another() -> None:
    retries = Retries()
    retries.failed(("tally", 1), 0.0)
    retries.failed(("tally", 1), 2.0)
    assert retries.due(("tally", 2), 2.0)
    assert not retries.due(("tally", 1), 5.0)
    retries.forget(("tally", 1))
    retries.failed(("tally", 1), 10.0)
    assert retries.due(("tally", 1), 12.0)
