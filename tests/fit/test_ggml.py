"""The sweep into block types: less output error than plain encoding, at every type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tailorbird.errors import UsageError
from tailorbird.fit.ggml import fit_ggml
from tailorbird.fit.hessian import sweep_factor
from tailorbird.formats.ggml import TYPES, BlockType, decode, encode

KINDS = [pytest.param(kind, id=name) for name, kind in TYPES.items()]


def error(layer: Any, weight: Tensor) -> float:
    lost, gram = (weight - layer.weight).double(), layer.gram.double()
    return float((lost @ gram * lost).sum() / (layer.weight.double() @ gram * layer.weight).sum())


@pytest.mark.parametrize("kind", KINDS)
def test_less_output_error_than_encoding(planted: Any, kind: BlockType) -> None:
    upper, _ = sweep_factor(planted.gram)
    swept = decode(fit_ggml(planted.weight, kind, upper), kind)
    weighted = decode(encode(planted.weight, kind, planted.gram.diagonal()), kind)
    assert error(planted, swept) < 0.6 * error(planted, weighted)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "IQ4_NL", "TQ2_0"])
def test_without_correlations_it_encodes(planted: Any, name: str) -> None:
    upper, _ = sweep_factor(torch.eye(512), 0.0)
    assert torch.equal(fit_ggml(planted.weight, TYPES[name], upper), encode(planted.weight, TYPES[name]))


def test_the_weight_is_left_and_rows_are_independent(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, kind = planted.weight.clone(), TYPES["Q4_K"]
    upper, _ = sweep_factor(planted.gram)
    whole = decode(fit_ggml(planted.weight, kind, upper), kind)
    assert torch.equal(planted.weight, before)
    monkeypatch.setattr("tailorbird.fit.ggml.ROW_CHUNK", 40)
    parts = decode(fit_ggml(planted.weight, kind, upper), kind)
    assert (whole - parts).abs().mean() < 1e-3 * whole.abs().mean()  # products of other shapes round otherwise


def test_refused() -> None:
    with pytest.raises(UsageError, match="rows of 96 weights are not whole Q4_K blocks"):
        fit_ggml(torch.zeros(4, 96), TYPES["Q4_K"], torch.eye(96))
