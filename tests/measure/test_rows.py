"""What rows are worth: the Fisher information of a head's logits, and how often an embedding's rows are read."""

from __future__ import annotations

import pytest
import torch

from tailorbird.measure import rows
from tailorbird.measure.rows import predicted, read


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_fisher_information_is_the_second_derivative_of_the_loss(cap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weight, inputs = torch.randn(12, 8), torch.randn(30, 8)
    logits = inputs @ weight.T
    logits = torch.tanh(logits / cap) * cap if cap else logits
    p = logits.softmax(1)
    hessian = torch.autograd.functional.hessian(lambda z: z.logsumexp(1).sum(), logits)
    found = predicted(weight, inputs, cap)
    torch.testing.assert_close(found, torch.einsum("iviv->iv", hessian).mean(0))
    assert found.sum() == pytest.approx(float((1 - p.square().sum(1)).mean()), rel=1e-5)
    monkeypatch.setattr(rows, "CHUNK", 40)
    torch.testing.assert_close(predicted(weight, inputs, cap), found)


def test_readings_are_counted() -> None:
    share = read([torch.tensor([[1, 1], [4, 1]]), torch.tensor([0])], 6)
    assert share.tolist() == pytest.approx([0.2, 0.6, 0, 0, 0.2, 0])
    assert read([], 3).tolist() == [0, 0, 0]
