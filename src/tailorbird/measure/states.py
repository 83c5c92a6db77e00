"""Hidden states of all calibration batches between two blocks; beyond a set size they live on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tailorbird.files import disk_full, make_folder

SPILL_BYTES = 512 * 2**20


class States:
    """A list of float tensors of fixed count, in memory up to `limit` bytes in all, otherwise one file a tensor in
    `folder`."""

    def __init__(self, first: list[Tensor], folder: Path, limit: int = SPILL_BYTES) -> None:
        self.folder = folder
        self.shapes = [tuple(tensor.shape) for tensor in first]
        self.dtypes = [tensor.dtype for tensor in first]
        self.spilled = sum(tensor.numel() * tensor.element_size() for tensor in first) > limit
        self._memory: list[Tensor] = [] if self.spilled else first
        if self.spilled:
            make_folder(folder)
            for i, tensor in enumerate(first):
                self[i] = tensor

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> Tensor:
        if not self.spilled:
            return self._memory[i]
        raw = torch.from_numpy(np.fromfile(self._file(i), dtype=np.uint8))
        return raw.view(self.dtypes[i]).view(self.shapes[i])

    def __setitem__(self, i: int, tensor: Tensor) -> None:
        self.shapes[i], self.dtypes[i] = tuple(tensor.shape), tensor.dtype
        if not self.spilled:
            self._memory[i] = tensor
            return
        try:
            tensor.contiguous().view(torch.uint8).numpy().tofile(self._file(i))
        except OSError as error:
            raise disk_full(self._file(i), error) from error

    def _file(self, i: int) -> Path:
        return self.folder / f"state-{i:05d}.bin"
