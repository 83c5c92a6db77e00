"""The loop: it ends no worse than it began, the same by seed, and says how far it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tailorbird.formats import PlaneSpec
from tailorbird.kernels import dense
from tailorbird.tune.learn import SignSGD, augmented_loss, block_loss, learn, total_loss
from tailorbird.tune.learning import begin
from tailorbird.tune.quantizers import Clip, Quantizer, Shift


def quantizers(block: Any, bits: int, kind: type[Quantizer], **more: Any) -> dict[str, Any]:
    specs = {name: PlaneSpec.uniform(bits, w.shape[1], 16) for name, w in block.weights.items()}
    return {
        name: kind(*begin(block.weights[name], block.stats[name], spec, "minmax", 0.01), **more)
        for name, spec in specs.items()
    }


def parameters(found: dict[str, Any]) -> list[torch.Tensor]:
    return [parameter for quantizer in found.values() for parameter in quantizer.learned]


def test_sign_sgd_takes_steps_of_one_size() -> None:
    value = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    optimizer = SignSGD([value], lr=0.25)
    (value * torch.tensor([5.0, -0.1, 0.0])).sum().backward()
    optimizer.step()
    assert value.tolist() == [0.75, 2.25, 3.0]


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("loss", [block_loss, augmented_loss])
def test_the_loss_falls(block_of: Any, bits: int, loss: Any) -> None:
    block = block_of()
    for kind, more, share in ((Shift, {}, 0.8), (Clip, {"logit": 4.0}, 0.9)):
        found = quantizers(block, bits, kind, **more)
        before = total_loss(block, found, loss)
        optimizer = (
            SignSGD(parameters(found), lr=1 / 40) if kind is Shift else torch.optim.AdamW(parameters(found), lr=0.1)
        )
        reached = learn(block, found, optimizer, loss, 40, decay=kind is Shift)
        assert reached.before == before and reached.after == total_loss(block, found, loss)
        assert reached.after < share * before
        # What is packed loses exactly that.
        packed = {name: quantizer.fitted().pack().dequantize() for name, quantizer in found.items()}
        assert sum(float(loss(block, i, packed)) for i in range(3)) == reached.after


def test_steps_that_lead_astray_are_taken_back(block_of: Any) -> None:
    block = block_of()
    found = quantizers(block, 3, Shift)
    start = [parameter.detach().clone() for parameter in parameters(found)]
    reached = learn(block, found, SignSGD(parameters(found), lr=-2.0), block_loss, 6)
    assert reached.after == reached.before
    assert all(torch.equal(one, other) for one, other in zip(start, parameters(found), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_steps_are_mixed_and_losses_float32(block_of: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(dense, "learning", lambda: dtype)
    block, seen = block_of(), set()

    def forward(hidden: torch.Tensor, replaced: Any) -> torch.Tensor:
        seen.add((torch.is_grad_enabled(), (hidden @ hidden.mT).dtype))
        return block.forward(hidden, replaced)

    watched = type(block)(**(vars(block) | {"forward": forward}))
    found = quantizers(block, 2, Shift)
    reached = learn(watched, found, SignSGD(parameters(found), lr=1 / 40), block_loss, 40, decay=True)
    # Without gradients in either: how much mixed precision changes is asked first.
    assert seen == {(True, dtype), (False, dtype), (False, torch.float32)}
    assert reached.after == total_loss(block, found, block_loss) < 0.8 * reached.before


def test_what_loses_little_is_learned_in_float32(block_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "learning", lambda: torch.bfloat16)
    kinds: dict[int, set[torch.dtype]] = {2: set(), 8: set()}
    for bits, seen in kinds.items():
        block = block_of()

        def forward(hidden: torch.Tensor, replaced: Any, block: Any = block, seen: set[torch.dtype] = seen) -> Any:
            if torch.is_grad_enabled():
                seen.add((hidden @ hidden.mT).dtype)
            return block.forward(hidden, replaced)

        found = quantizers(block, bits, Shift)
        watched = type(block)(**(vars(block) | {"forward": forward}))
        learn(watched, found, SignSGD(parameters(found), lr=0.1), block_loss, 3)
    assert kinds == {2: {torch.bfloat16}, 8: {torch.float32}}


def test_the_same_seed_gives_the_same_and_progress_is_told(block_of: Any) -> None:
    def codes(seed: int) -> list[torch.Tensor]:
        steps: list[tuple[int, int]] = []
        block = block_of(0, 5, lambda done, total: steps.append((done, total)))
        block = type(block)(**(vars(block) | {"seed": seed}))
        found = quantizers(block, 2, Shift)
        learn(block, found, SignSGD(parameters(found), lr=0.1), block_loss, 7, batches=2)
        assert steps == [(k, 7) for k in range(1, 8)]
        return [quantizer.fitted().codes for quantizer in found.values()]

    torch.manual_seed(1)
    one = codes(3)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, codes(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, codes(4), strict=True))


def test_what_loses_nothing_is_left_alone(block_of: Any) -> None:
    block = block_of()
    exact = quantizers(block, 4, Shift)
    same = {name: quantizer.weight().detach() for name, quantizer in exact.items()}
    targets = [block.run(i, same) for i in range(3)]
    block = type(block)(**(vars(block) | {"targets": targets}))
    reached = learn(block, exact, SignSGD(parameters(exact), lr=0.1), block_loss, 5)
    assert reached.before == reached.after == 0
