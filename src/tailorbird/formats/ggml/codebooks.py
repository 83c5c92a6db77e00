"""The points of llama.cpp's codebook types.

They are facts of the format, packaged as they stand in ggml-common.h; ``scripts/make_codebooks.py`` writes the file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tailorbird.errors import DataError
from tailorbird.formats.ggml.types import Codebook
from tailorbird.formats.safetensors_header import read_header, read_tensor

_FILE = Path(__file__).with_name("codebooks.safetensors")


@lru_cache(maxsize=8)
def points(grid: Codebook) -> Tensor:
    """All points of a codebook in the order of their codes: float32 (points, dim)."""
    found = read_tensor(read_header(_FILE, error=DataError)[grid.table], error=DataError).float()
    if grid.signs == "shift":
        found = torch.cat([found * 8 + 1, found * 8 - 1])
    return found * grid.unit
