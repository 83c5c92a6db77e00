"""The surrogate gradients, against finite differences of what they are the gradients of."""

from __future__ import annotations

import torch
from torch import Tensor

from tailorbird.tune.rounding import rounded, through


def surrogate(
    weight: Tensor, scale: Tensor, offset: Tensor, top: Tensor, shift: Tensor, residue: Tensor, inside: Tensor
) -> Tensor:
    """Rounding as a constant `residue`; codes beyond the range as constants too."""
    place = (weight - offset[:, :, None]) / scale[:, :, None] + shift
    codes = torch.where(inside, place + residue, place.detach().round().clamp(torch.zeros(()), top))
    return codes * scale[:, :, None] + offset[:, :, None]


def case(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(3, 2, 8, generator=generator, dtype=torch.float64)
    scale = 0.2 + 0.3 * torch.rand(3, 2, generator=generator, dtype=torch.float64)
    offset = -0.7 + 0.2 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    shift = 0.4 * torch.rand(3, 2, 8, generator=generator, dtype=torch.float64) - 0.2
    return weight, scale, offset, torch.tensor([[3.0], [7.0]], dtype=torch.float64), shift


def test_forward_is_hard() -> None:
    weight, scale, offset, top, shift = case(0)
    found = rounded(weight, scale, offset, top, shift)
    codes = (found - offset[:, :, None]) / scale[:, :, None]
    assert torch.allclose(codes, codes.round(), atol=1e-9) and bool((codes > -1e-9).all() & (codes < top + 1e-9).all())
    plain = rounded(weight, scale, offset, top)
    assert torch.equal(plain, rounded(weight, scale, offset, top, torch.zeros_like(shift)))
    assert not torch.equal(plain, found)


def test_backward_is_the_surrogates_by_finite_differences() -> None:
    for seed in range(4):
        weight, scale, offset, top, shift = case(seed)
        place = (weight - offset[:, :, None]) / scale[:, :, None] + shift
        residue, inside = place.round() - place, (place.round() >= 0) & (place.round() <= top)
        assert inside.any() and not inside.all()
        probe = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        inputs = [scale.requires_grad_(), offset.requires_grad_(), shift.requires_grad_()]
        found = rounded(weight, scale, offset, top, shift)
        slopes = torch.autograd.grad((found * probe).sum(), inputs)

        def value(*changed: Tensor, fixed: tuple[Tensor, ...] = (weight, top, residue, inside, probe)) -> float:
            w, most, rest, mask, p = fixed
            scale, offset, shift = changed
            return float((surrogate(w, scale, offset, most, shift, rest, mask) * p).sum())

        assert abs(value(*(x.detach() for x in inputs)) - float((found.detach() * probe).sum())) < 1e-9
        for k, slope in enumerate(slopes):
            numeric = torch.zeros_like(slope)
            for n in range(slope.numel()):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = [x.detach().clone() for x in inputs]
                    moved[k].view(-1)[n] += step
                    ends.append(value(*moved))
                numeric.view(-1)[n] = (ends[0] - ends[1]) / 2e-6
            assert torch.allclose(slope, numeric, atol=1e-5), (seed, k)


def test_the_weight_itself_gets_no_gradient() -> None:
    weight, scale, offset, top, shift = case(1)
    weight.requires_grad_()
    scale.requires_grad_()
    rounded(weight, scale, offset, top, shift).sum().backward()
    assert weight.grad is None and scale.grad is not None


def test_through() -> None:
    value = torch.tensor([0.3, -1.2], requires_grad=True)
    instead = value.detach().round()
    found = through(value, instead)
    assert torch.equal(found, instead)
    (slope,) = torch.autograd.grad((found * torch.tensor([2.0, 5.0])).sum(), value)
    assert slope.tolist() == [2.0, 5.0]
