from __future__ import annotations

import torch

from tailorbird.anatomy import Part
from tailorbird.methods import find
from tailorbird.methods.gptq import GPTQ
from tailorbird.score.rounding import Rounding, rounded

ROWS, COLS = 2048, 64
PART = Part("embed", (ROWS, COLS), "embedding", None)


def _case() -> tuple[GPTQ, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    method = find("gptq").from_options({"group_size": 32})
    assert isinstance(method, GPTQ)
    return method, torch.randn(ROWS, COLS, generator=generator), torch.arange(1, ROWS + 1, dtype=torch.float32) ** -2


def test_rows_that_are_worth_more_lose_less() -> None:
    method, weight, worth = _case()
    spec = method.spec(PART, 3)
    plain = rounded(method, weight, spec)
    mixed = Rounding(method, {"embed": worth})(PART, weight, spec)
    lost = [(some - weight).square().sum(1) for some in (plain, mixed)]
    assert float((lost[1] * worth).sum()) < 0.3 * float((lost[0] * worth).sum())
    assert float(lost[1][:64].mean()) < float(lost[0][:64].mean()) < float(lost[1][-64:].mean())


def test_some_rows_are_rounded_as_all_are() -> None:
    method, weight, worth = _case()
    rounding, spec = Rounding(method, {"embed": worth}), method.spec(PART, 2)
    whole = rounding(PART, weight, spec)
    index = torch.tensor([2000, 3, 700])
    assert torch.equal(rounding(PART, weight[index], spec, index), whole[index])
    assert torch.equal(rounding(PART, weight[5:90], spec, slice(5, 90)), whole[5:90])


def test_parts_of_unknown_worth_have_one_format() -> None:
    method, weight, _ = _case()
    spec = method.spec(PART, 2)
    assert torch.equal(Rounding(method)(PART, weight, spec), rounded(method, weight, spec))
