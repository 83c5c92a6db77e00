"""DIET: masks over a frozen head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.tailor.device import Device
from tailorbird.tailor.diet import Diet, Dieting, patch_of, straight_through
from tailorbird.tailor.duet import Static, behind, through
from tailorbird.tailor.head import BLOCK, NAMES, manifest_for, mapped, shapes, unrolled, with_head
from tailorbird.tailor.learn import Settings, train
from tailorbird.tailor.patch import apply
from tailorbird.tailor.wire import encode, receive
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import auc
from tailorbird.tasks.sequences.split import leave_one_out

from .conftest import WIDTH, arrays, made, random_head

HEAD = {name: torch.from_numpy(value) for name, value in random_head().items()}
HISTORIES = [np.array([3, 1, 4]), np.array([2, 7, 1, 8])]


def test_all_ones_are_the_frozen_head() -> None:
    trunk, maker = made("sasrec"), Diet(HEAD, 1.0)
    ids, counts = behind(HISTORIES, 8)
    heads = maker(trunk.items(ids), counts)
    assert all(torch.equal(heads[name][0], HEAD[name]) for name in NAMES)
    with pytest.raises(UsageError, match="share"):
        Diet(HEAD, 0.0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_masks_as_bits(share: float) -> None:
    """The share is exact for every user, the bits survive the wire, and a patch is the masked head."""
    model, maker = made("sasrec"), Diet(HEAD, share)
    ids, counts = behind(HISTORIES, 8)
    vectors = model.items(ids)
    masks = maker.masks(vectors, counts)
    assert not torch.equal(masks[0][0], masks[0][1])
    trunk = with_head(arrays(model), WIDTH) | random_head()
    manifest = manifest_for(trunk)
    for row in range(2):
        assert all(int(mask[row].sum()) == round(share * WIDTH * WIDTH) for mask in masks)
        patch = patch_of(masks, row, manifest)
        assert patch.nbytes == 2 * WIDTH * WIDTH // 8
        message = encode(patch, trunk, manifest)
        assert len(message) <= 47 + patch.nbytes
        found = receive(message, trunk, manifest)
        heads = maker(vectors, counts)
        for name in NAMES:
            np.testing.assert_array_equal(found[name], heads[name][row].detach().numpy())


def test_dieting_is_one_block_and_a_mask_a_layer() -> None:
    """With equal masks the head is a network that runs the same layer twice: a plain loop over the one block."""
    model, maker = made("sasrec"), Dieting(HEAD)
    ids, counts = behind(HISTORIES, 8)
    vectors = model.items(ids)
    block = {name: tensor.numpy() for name, tensor in maker.frozen().items()}
    assert {n: b.shape for n, b in block.items()} == {BLOCK[0]: (WIDTH, WIDTH), BLOCK[1]: (WIDTH,)}
    assert not [n for n in maker.state_dict() if n.replace("_", ".") in NAMES]  # stored once, on both sides
    one, other = maker.masks(vectors, counts)
    assert not torch.equal(one, other) and not torch.equal(one[0], one[1])  # by layer, and by user
    with torch.no_grad():
        maker.layers[1] = maker.layers[0]
    masks = maker.masks(vectors, counts)
    assert torch.equal(*masks)
    trunk = with_head(arrays(model), WIDTH) | unrolled(block)
    manifest = manifest_for(trunk)
    device, state = Device(model.name, model.shape.to_json(), trunk, manifest), np.ones(WIDTH, np.float32)
    for row in range(2):
        message = encode(patch_of(masks, row, manifest), trunk, manifest)
        assert len(message) <= 47 + 2 * WIDTH * WIDTH // 8
        device.take(message)
        kept, x = block[BLOCK[0]] * masks[0][row].detach().numpy(), state
        for layer in range(2):
            x = kept @ x + block[BLOCK[1]]
            x = x if layer else np.tanh(x)
        np.testing.assert_allclose(mapped(state, device.tensors), state + x, atol=1e-6)
        heads = {name: tensor[row : row + 1] for name, tensor in maker(vectors, counts).items()}
        np.testing.assert_allclose(through(torch.from_numpy(state)[None], heads)[0].detach(), state + x, atol=1e-6)


def test_a_tied_head_learns(cycles: Sequences) -> None:
    """One block in both layers, near the trunk to begin with, and gradients reach it."""
    trunk, head = made("sasrec", items=12), Static(WIDTH, tied=True)
    assert sum(value.numel() for value in head.parameters()) == WIDTH * (WIDTH + 1)
    assert torch.equal(head.head()[NAMES[0]], head.head()[NAMES[2]])
    state = torch.randn(1, WIDTH)
    assert (through(state, head(state[:, None], torch.ones(1))) - state).norm() < 0.05 * state.norm()
    log = train(trunk, head, leave_one_out(cycles), Settings(epochs=3, batch=64, rate=0.01))
    assert log[-1]["ndcg@10"] > log[0]["ndcg@10"]


def test_training_moves_the_masks_and_not_the_head(cycles: Sequences) -> None:
    trunk, maker = made("sasrec", items=12), Diet(HEAD)
    before = {name: getattr(maker, name.replace(".", "_")).clone() for name in NAMES}
    ids, counts = behind(HISTORIES, 8)
    mapped = through(torch.randn(2, WIDTH), maker(trunk.items(ids), counts))
    functional.cross_entropy(trunk.scores(mapped)[:, 1:], torch.tensor([1, 2])).backward()
    for parameter in (*maker.elements.parameters(), *maker.filters.parameters()):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
    train(trunk, maker, leave_one_out(cycles), Settings(epochs=1, batch=64))
    assert all(torch.equal(before[name], getattr(maker, name.replace(".", "_"))) for name in NAMES)


def test_straight_through() -> None:
    """Hard forward; backward the slope of a sigmoid, to the finite difference."""
    scores = torch.randn(2, 3, 3, requires_grad=True)
    mask = straight_through(scores, 4)
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0} and (mask.sum((1, 2)) == 4).all()
    mask.sum().backward()
    with torch.no_grad():
        slope = (torch.sigmoid(scores + 1e-3) - torch.sigmoid(scores - 1e-3)) / 2e-3
    torch.testing.assert_close(scores.grad, slope, atol=1e-3, rtol=1e-3)


def test_filters_of_zeros_can_be_removed() -> None:
    """A row of the first layer without a weight gives tanh(b): taken out with its column, nothing else moves."""
    model = made("gru4rec")
    trunk = with_head(arrays(model), WIDTH) | random_head()
    trunk["head.0.bias"] = np.zeros(WIDTH, np.float32)
    manifest = manifest_for(trunk)
    masks = [torch.ones(1, WIDTH, WIDTH), torch.ones(1, WIDTH, WIDTH)]
    masks[0][0, [2, 5]] = 0
    found = apply(trunk, patch_of(masks, 0, manifest), manifest)
    state = np.random.default_rng(0).standard_normal(WIDTH).astype(np.float32)
    left = np.delete(np.arange(WIDTH), [2, 5])
    inner = np.tanh(found[NAMES[0]] @ state)
    assert not inner[[2, 5]].any()
    np.testing.assert_allclose(found[NAMES[2]] @ inner, found[NAMES[2]][:, left] @ inner[left], atol=1e-6)


@pytest.mark.parametrize("way", ["one mask", "masks"])
def test_opposite_users(way: str) -> None:
    """Two types of users want opposite signs of a feature: over one frozen random head of width 256, a mask a user
    tells them apart, one mask for all can't."""
    torch.manual_seed(0)
    width = 256
    kinds, direction, wants = torch.randn(2, width), torch.randn(width), torch.tensor([[False], [True]])
    maker = Diet({name: torch.randn(shape) for name, shape in shapes(width).items()})
    optimiser = torch.optim.Adam(maker.parameters(), 0.003)
    seen, counts = kinds if way == "masks" else kinds[[0, 0]], torch.ones(2, dtype=torch.int64)

    def outcome() -> tuple[torch.Tensor, torch.Tensor]:
        heads, feature = maker(seen[:, None] / width**0.5, counts), torch.randn(2, 128)
        mapped = through(feature[:, :, None] * direction, heads, residual=False)
        return mapped.mean(2).flatten(), ((feature > 0) ^ wants).float().flatten()

    for _ in range(10):
        logit, label = outcome()
        loss = functional.binary_cross_entropy_with_logits(logit, label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    logit, label = outcome()
    found = auc(label.numpy() > 0, logit.detach().double().numpy())
    assert found > 0.85 if way == "masks" else found < 0.6, found
