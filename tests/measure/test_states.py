"""States on disk are states in memory, bit for bit."""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import ResourceError
from tailorbird.measure.states import States

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


def tensors_of(shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@given(SHAPES, st.sampled_from([torch.float32, torch.float16, torch.bfloat16]), st.integers(0, 99))
def test_spilled_equals_memory(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, ...]], dtype: torch.dtype, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("states")
    first = tensors_of(shapes, dtype, seed)
    first[0].view(-1)[0] = math.nan
    memory, disk = States(list(first), folder / "a"), States(list(first), folder / "b", limit=0)
    assert not memory.spilled and disk.spilled and not (folder / "a").exists()
    for tensors in (first, tensors_of(shapes, dtype, seed + 1)):
        for i, tensor in enumerate(tensors):
            memory[i] = tensor
            disk[i] = tensor
        assert len(memory) == len(disk) == len(shapes)
        for i, tensor in enumerate(tensors):
            assert disk[i].dtype == memory[i].dtype == dtype and disk[i].shape == tensor.shape
            assert disk[i].view(torch.uint8).tolist() == memory[i].view(torch.uint8).tolist()


def test_the_limit_is_of_all_together(tmp_path: Path) -> None:
    first = [torch.zeros(4, 4), torch.zeros(4, 4)]
    assert not States(first, tmp_path, limit=128).spilled
    assert States(first, tmp_path, limit=127).spilled


def test_strided_states_are_kept_as_they_read(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(States([tensor], tmp_path, limit=0)[0], tensor)


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    states = States([torch.zeros(3)], tmp_path, limit=0)
    states[0].add_(1)
    assert torch.equal(states[0], torch.zeros(3))


def test_a_full_disk_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = States([torch.zeros(3)], tmp_path, limit=0)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class Array(np.ndarray):  # type: ignore[type-arg]
        tofile = full

    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(3).view(Array))
    with pytest.raises(ResourceError, match="space") as caught:
        states[0] = torch.ones(3)
    assert "--resume" in caught.value.hint
