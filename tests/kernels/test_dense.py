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
