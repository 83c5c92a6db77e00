"""BiLLM: the card of its oracles on a layer with planted outlier channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.anatomy import Part
from tailorbird.errors import UsageError
from tailorbird.fit import binary
from tailorbird.measure.statistics import Stats
from tailorbird.methods.billm import BiLLM
from tailorbird.methods.gptq import GPTQ
from tailorbird.methods.rtn import RTN

CODE: dict[str, Any] = {"search": "salience", "shift": True, "limit": 50, "trial": 2}


def fitted(layer: Any, method: Any, bits: int = 1) -> Any:
    stats = Stats(layer.gram.clone(), layer.inputs, len(layer.inputs))
    return method.fit(layer.weight.clone(), stats, method.spec(Part("w", tuple(layer.weight.shape), "mlp"), bits))


def test_planted_layer(planted: Any) -> None:
    """A double-precision prototype of the published form, on a layer of this kind, lost 0.087; of the code's, 0.145;
    rounding and GPTQ 0.40 and 0.175 at one bit, 0.35 and 0.13 at two. Here salient columns are gathered over the row,
    which helps the code's form most."""
    common: dict[str, Any] = {"group_size": 128, "scale": "fp16"}
    paper = planted.error(fitted(planted, BiLLM(scale="fp16")).pack())
    code = planted.error(fitted(planted, BiLLM(**CODE, scale="fp16")).pack())
    rtn, gptq = (planted.error(fitted(planted, method(**common), 1).pack()) for method in (RTN, GPTQ))
    assert paper <= 0.6 * gptq and paper <= planted.error(fitted(planted, GPTQ(**common), 2).pack())
    assert paper < code <= 0.15 and code <= 0.145 / 0.175 * gptq and gptq < rtn
    plain = planted.error(fitted(planted, BiLLM(limit=0, scale="fp16")).pack())
    assert paper < plain


def test_salient_columns_are_those_planted(planted: Any) -> None:
    found = fitted(planted, BiLLM())
    salient = round((found.claimed_bits - 1) * 512)
    assert salient == 128
    finer = fitted(planted, BiLLM(group_size=32))
    first = finer.column_order[: round((finer.claimed_bits - 1) * 512)].tolist()
    assert first == sorted(first) and set(range(130, 138)) <= set(first)
    assert 1 < finer.claimed_bits <= 1 + 4 * 32 / 512


def binarized(x: torch.Tensor, order: int, shift: bool) -> torch.Tensor:
    """What `order` binary weights a row, each of what the ones before leave, make of (rows, columns)."""
    found = torch.zeros_like(x)
    for _ in range(order):
        mean = (x - found).mean(1, keepdim=True) if shift else torch.zeros(len(x), 1)
        left = x - found - mean
        found = found + mean + torch.where(left >= 0, 1.0, -1.0) * left.abs().mean(1, keepdim=True)
    return found


@pytest.mark.parametrize("options", [{}, CODE], ids=["paper", "code"])
def test_no_other_count_of_salient_columns_loses_less(
    planted: Any, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    seen: list[Any] = []
    search = BiLLM._salient
    monkeypatch.setattr(BiLLM, "_salient", lambda *args: seen.append((args, search(*args))) or seen[-1][1])
    method = BiLLM(group_size=16, **options)
    fitted(planted, method)
    (_, weight, salience, ranks, spec), chosen = seen[0]
    domain, most = weight if not options else salience, round(method.limit * 512 / (128 * 16))

    def lost(columns: torch.Tensor, order: int) -> float:
        blocks = (domain[:, columns[start : start + 16]] for start in range(0, len(columns), 16))
        return float(sum((x - binarized(x, order, method.shift)).double().square().sum() for x in blocks))

    errors = [
        lost(ranks[: 16 * count].sort().values, 2) + lost(ranks[16 * count :].sort().values, method.trial)
        for count in range(most + 1)
    ]
    assert spec.group_size == 16 and 0 < chosen <= most
    assert errors[chosen] <= (1 + 1e-5) * min(errors) and errors[chosen] <= errors[1] and errors[chosen] < errors[0]


def test_one_block_without_a_second_magnitude_is_plain_sign_binarization(
    layer_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = layer_of(32, 10, 100, [])
    identity = Stats(torch.eye(32))
    method = BiLLM(group_size=32, limit=0, scale="fp16")
    everything = torch.tensor([float("inf")])
    monkeypatch.setattr(binary, "thresholds", lambda domain, quantiles: everything)
    weight = method.fit(layer.weight.clone(), identity, method.spec(Part("w", (10, 32), "mlp"), 1)).pack().dequantize()
    wanted = layer.weight.sign() * layer.weight.abs().mean(1, keepdim=True)
    assert torch.allclose(weight, wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, CODE], ids=["paper", "code"])
@pytest.mark.parametrize("scale", ["u8", "fp16"])
def test_honest_bytes(layer_of: Any, options: dict[str, Any], scale: Any) -> None:
    """Two planes (three with means), a scale each by row and block of 128 (with means a number more), and the order."""
    layer = layer_of(256, 64, 300, [3])
    packed = fitted(layer, BiLLM(**options, scale=scale)).pack()
    planes, numbers = (3, 4) if options else (2, 2)
    own = numbers * 2 * (2 if scale == "fp16" else 1) + (0 if scale == "fp16" else 2 * numbers)
    assert packed.nbytes == 64 * (planes * 256 // 8 + own) + 4 * 256
    assert sorted(packed.arrays["column_order"].tolist()) == list(range(256))
    values = packed.dequantize()
    for start in range(0, 256, 128):
        columns = packed.arrays["column_order"][start : start + 128].long()
        assert all(len(row.unique()) <= 4 for row in values[:, columns])


def test_embedding_and_head_take_the_bits_of_the_budget(layer_of: Any) -> None:
    layer = layer_of(64, 10, 100, [])
    method, part = BiLLM(), Part("w", (10, 64), "head")
    for bits in (1, 4, 8):
        spec = method.spec(part, bits)
        assert spec == GPTQ(group_size=128).spec(part, bits)
        one, other = (
            m.fit(layer.weight.clone(), Stats(layer.gram), spec).pack() for m in (method, GPTQ(group_size=128))
        )
        assert torch.equal(one.dequantize(), other.dequantize())


@pytest.mark.parametrize("bad", [{"search": "x"}, {"limit": -1}, {"limit": 129}, {"trial": 3}, {"trial": 0}])
def test_what_is_no_choice(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        BiLLM.from_options(bad)
