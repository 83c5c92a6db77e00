"""The bytes of a tensor, without copying them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor in order, as little-endian bytes; shares memory where the tensor is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(cast(bytes, flat.numpy()))
