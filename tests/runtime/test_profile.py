"""Measuring a machine: what is read comes from memory. No figure of a clock is looked at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird.formats import PlaneSpec
from tailorbird.kernels.native import extension
from tailorbird.runtime import profile
from tailorbird.runtime.profile import Profile, measure

# Beyond the caches of most processors.
COLD = 2**27


class Listed:
    """A matrix that writes down when it is read."""

    def __init__(self, key: tuple[int, int, int], met: list[tuple[int, int, int]]) -> None:
        self.key, self.met = key, met

    def matmul(self, x: Tensor) -> Tensor:
        assert x.shape[1] == self.key[1]
        self.met.append(self.key)
        return x


def nbytes(rows: int, cols: int, bits: int) -> int:
    return PlaneSpec.uniform(bits, cols, profile.GROUP_SIZE).plan(rows).nbytes


@pytest.mark.parametrize("batch", profile.BATCHES)
def test_others_are_read_before_a_matrix_comes_again(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_SECONDS", 0.0)
    met: list[tuple[int, int, int]] = []
    keys = [(*shape, bits) for shape in profile.SHAPES for bits in profile.BITS]
    found = profile._in_turn({key: Listed(key, met) for key in keys}, batch)  # type: ignore[misc]
    assert len(met) == 2 * len(found) and set(met) == set(found)
    for key in found:
        first = met.index(key)
        again = met.index(key, first + 1)
        assert sum(nbytes(*other) for other in met[first + 1 : again]) > COLD
    assert set(keys) - set(found) == (set() if batch < 512 else {key for key in keys if key[0] == 65536})


@pytest.mark.skipif(extension() is None, reason="there are no native kernels")
def test_every_product_is_measured_and_the_table_comes_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(profile, "SHAPES", ((64, 128), (32, 64)))
    monkeypatch.setattr(profile, "BITS", (1, 4))
    monkeypatch.setattr(profile, "BATCHES", (1, 3))
    monkeypatch.setattr(profile, "_SECONDS", 0.0)
    told: list[tuple[int, int]] = []
    found = measure(lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert {(entry.rows, entry.cols, entry.bits, entry.batch) for entry in found.entries} == {
        (*shape, bits, batch) for shape in ((64, 128), (32, 64)) for bits in (1, 4) for batch in (1, 3)
    }
    found.write(tmp_path / "this.json")
    assert Profile.read(tmp_path / "this.json") == found
    assert torch.isfinite(torch.tensor([entry.milliseconds for entry in found.entries])).all()
