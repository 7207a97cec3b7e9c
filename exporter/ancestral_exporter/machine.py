"""What a training runs on, and how its products are rounded there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def machine() -> str:
    """What a training runs on here, in words: GPUs by name, or cores."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return f"{count} × {torch.cuda.get_device_name(0)}" if count > 1 else torch.cuda.get_device_name(0)
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores"


@contextmanager
def rounding(*, exact: bool) -> Iterator[None]:
    """Products of float32 within: exact, or on a GPU of TensorFloat-32, whose 10 bits a training does not miss."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not exact
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
