"""Room for large tensors: in memory, or beyond a size in a temporary file that disappears with the tensor."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.files import disk_full

SPILL_BYTES = 2**30


def room(shape: tuple[int, ...], *, limit: int | None = None) -> Tensor:
    """An uninitialised float32 tensor; one larger than `limit` bytes (1 GiB unless told) is backed by a file.

    Raises:
        ResourceError: the disk has no room for it.
    """
    size = math.prod(shape)
    if size * 4 <= (SPILL_BYTES if limit is None else limit):
        return torch.empty(shape)
    handle, name = tempfile.mkstemp(prefix="tailorbird-", suffix=".states")
    try:
        # The blocks are asked for now: writing to a mapped file on a full disk would kill the process.
        _reserve(handle, size * 4)
        return torch.from_file(name, shared=True, size=size, dtype=torch.float32).view(shape)
    except OSError as cause:
        raise disk_full(Path(name), cause) from cause
    finally:
        os.close(handle)
        os.unlink(name)


def _reserve(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    else:
        os.truncate(handle, size)
