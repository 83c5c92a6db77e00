from __future__ import annotations

import pytest
import torch

from tailorbird.kernels import dense


def test_precision_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(ZeroDivisionError), dense.fast():
        assert torch.get_float32_matmul_precision() == "medium"
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("in_full", "wanted"), [(True, "medium"), (False, "highest")])
def test_exact_is_never_rounded(monkeypatch: pytest.MonkeyPatch, in_full: bool, wanted: str) -> None:
    monkeypatch.setattr(dense, "_in_full", lambda: in_full)
    with dense.fast(), dense.fast(exact=True):
        assert torch.get_float32_matmul_precision() == wanted


def test_exact_products_are_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 640, generator=generator), torch.randn(640, 256, generator=generator)
    with dense.fast(exact=True):
        found = a @ b
    true = a.double() @ b.double()
    assert float((found - true).norm() / true.norm()) < 2e-6


@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_mixed_products_are_of_the_type_learned_with(monkeypatch: pytest.MonkeyPatch, wanted: torch.dtype) -> None:
    monkeypatch.setattr(dense, "learning", lambda: wanted)
    one = torch.ones(3, 3)
    with dense.mixed():
        assert (one @ one).dtype == wanted and (one + one).dtype == torch.float32
    assert (one @ one).dtype == torch.float32
