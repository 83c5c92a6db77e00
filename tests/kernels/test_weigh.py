"""Weights of tokens from their logits: the kernel's and the reference's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tailorbird.kernels import native
from tailorbird.runtime.sampling import Weights


@pytest.mark.parametrize("count", [1, 127, 128, 129, 4097])
@pytest.mark.parametrize("temperature", [1e-6, 0.7, 3.0])
def test_weights_of_logits(extension: Any, count: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As float64 has them, by the kernel and without; what is no number can't be drawn."""
    logits = torch.randn(count, generator=torch.Generator().manual_seed(count)) * 4
    logits[count // 2 : count // 2 + 1] = -torch.inf
    if count > 2:
        logits[1] = torch.nan
    wanted = torch.zeros(count + -count % 128, dtype=torch.float64)
    wanted[:count] = ((logits.double() - logits.nan_to_num(-torch.inf).max()) / temperature).exp().nan_to_num(0.0)
    for module in (extension, None):
        monkeypatch.setattr(native, "extension", lambda module=module: module)
        found = Weights(logits.numpy(), temperature)
        values = found.of(np.arange(len(found.sums)))
        assert torch.allclose(torch.from_numpy(values).double().reshape(-1), wanted, rtol=2e-5, atol=1e-30)
        assert np.allclose(found.sums, values.sum(1)) and np.array_equal(found.tops, values.max(1))


def test_what_does_not_fit_is_refused(extension: Any) -> None:
    logits, each, last = np.zeros(134, np.float32), np.zeros(2, np.float32), np.array([1])
    room = np.ones((1, 128), np.float32)
    assert extension.weigh(logits, 1.0, each, each.copy()) == 0
    extension.weights_of(logits, 1.0, 0.0, last, room)
    assert room[0].tolist() == [1.0] * 6 + [0.0] * 122
    for wrong in (
        (logits[:0], 1.0, each[:0], each[:0]),
        (logits, 0.0, each, each),
        (logits, math.nan, each, each),
        (logits, 1.0, each[:1], each),
        (logits, 1.0, each, np.zeros(3, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"to weigh|don't fit"):
            extension.weigh(*wrong)
    for stretch, out in (
        (last + 1, room),
        (last - 2, room),
        (last, room[:, :127].copy()),
        (last, np.ones((2, 128), np.float32)),
    ):
        with pytest.raises(ValueError, match="stretch"):
            extension.weights_of(logits, 1.0, 0.0, stretch, out)
    with pytest.raises(TypeError):
        extension.weigh(logits.astype(np.float64), 1.0, each, each)
