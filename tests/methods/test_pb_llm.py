"""PB-LLM: salient columns in 8 bits, the rest binary."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.measure.statistics import Stats
from tailorbird.methods.gptq import GPTQ
from tailorbird.methods.pb_llm import PBLLM


def fitted(layer: Any, method: Any, bits: int = 1) -> Any:
    stats = Stats(layer.gram.clone(), layer.inputs, len(layer.inputs))
    return method.fit(layer.weight.clone(), stats, method.spec(Part("w", tuple(layer.weight.shape), "mlp"), bits))


def test_planted_layer(planted: Any) -> None:
    method = PBLLM(group_size=32)
    spec = method.spec(Part("w", (96, 512), "mlp"), 1)
    assert spec.bits == (8, 8) + (1,) * 14 and spec.column_order
    found = fitted(planted, method)
    first = found.column_order[:64].tolist()
    assert first == sorted(first) and set(range(130, 138)) <= set(first)
    assert found.claimed_bits == pytest.approx(8 * 64 / 512 + 448 / 512)
    assert planted.error(found.pack()) <= 0.6 * planted.error(fitted(planted, GPTQ(group_size=32), 1).pack())


def test_more_salient_columns_lose_less(planted: Any) -> None:
    errors = [
        planted.error(fitted(planted, PBLLM(group_size=32, salient=share)).pack()) for share in (0, 0.1, 0.3, 0.6)
    ]
    assert errors == sorted(errors, reverse=True)


def test_binary_groups_have_the_optimal_scale(layer_of: Any) -> None:
    layer = layer_of(64, 10, 100, [])
    method = PBLLM(group_size=16, salient=0, scale="fp16")
    spec = method.spec(Part("w", (10, 64), "mlp"), 1)
    assert spec.bits == (1,) * 4 and not spec.column_order
    values = method.fit(layer.weight.clone(), Stats(torch.eye(64)), spec).pack().dequantize()
    wanted = layer.weight.view(10, 4, 16).abs().mean(2, keepdim=True) * layer.weight.view(10, 4, 16).sign()
    assert torch.allclose(values.view(10, 4, 16), wanted, rtol=2e-3, atol=1e-4)


def test_rows_of_one_group_are_binary() -> None:
    assert PBLLM().spec(Part("w", (4, 31), "mlp"), 1).bits == (1,)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_what_is_no_share(share: float) -> None:
    with pytest.raises(UsageError, match="salient"):
        PBLLM(salient=share)
