"""DUET: heads by history, learning, and the same model on two sides of a wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.tailor.device import Device
from tailorbird.tailor.duet import Duet, Static, behind, through
from tailorbird.tailor.head import NAMES, manifest_for, shapes, with_head
from tailorbird.tailor.learn import Settings, heads_for, published, scorer, train, validate
from tailorbird.tailor.patch import full, identity
from tailorbird.tailor.wire import encode, receive
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import auc
from tailorbird.tasks.sequences.split import last_events, leave_one_out
from tailorbird.zoo.recommenders.sasrec import SASRec

from .conftest import WIDTH, arrays, made

ONE, OTHER = np.array([3, 1, 4, 1, 5]), np.array([2, 7, 1, 8, 2])


def shaken(width: int = WIDTH) -> Duet:
    """A generator whose last layer is not zero."""
    torch.manual_seed(3)
    maker = Duet(width)
    with torch.no_grad():
        for parameter in maker.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return maker.eval()


def test_heads_follow_the_history() -> None:
    """Other histories, other heads; the same history, the same bits, whatever stands behind it."""
    trunk, maker = made("sasrec"), shaken()
    heads = heads_for(trunk, maker, [ONE, OTHER, ONE], 8)
    wider = heads_for(trunk, maker, [ONE, OTHER, ONE], 30)
    for name in NAMES:
        assert torch.equal(heads[name][0], heads[name][2]) and not torch.equal(heads[name][0], heads[name][1])
        assert torch.equal(heads[name], wider[name])
    assert heads_for(trunk, maker, [np.array([], np.int64)])["head.0.bias"].isfinite().all()  # a new user


def test_a_constant_generator_is_the_static_head() -> None:
    trunk, maker, static = made("sasrec"), Duet(WIDTH), Static(WIDTH)
    with torch.no_grad():
        for weight, bias, value in zip(maker.weights, maker.biases, static.values, strict=True):
            value.add_(0.3 * torch.randn_like(value))
            weight.zero_()
            bias.copy_(value.reshape(-1))
    found, wanted = (scorer(trunk, each)([ONE, OTHER]) for each in (maker, static))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "din"])
def test_payload(name: str) -> None:
    """2,112 numbers at width 32, at most 2.5 kB, and the same logits behind the wire up to int8 steps."""
    model, maker = made(name, width=32), shaken(32)
    trunk = with_head(arrays(model), 32)
    manifest = manifest_for(trunk)
    heads = heads_for(model, maker, [ONE])
    values = {n: tensor[0].numpy() for n, tensor in heads.items()}
    assert sum(value.size for value in values.values()) == 2112
    exact, small = (encode(full(values, manifest), trunk, manifest, tolerance=t) for t in (0.0, 0.01))
    assert len(small) <= 2500
    device = Device(model.name, model.shape.to_json(), trunk, manifest)
    wanted = scorer(model, maker)([ONE])[0]
    device.take(exact)
    np.testing.assert_allclose(device.scores(ONE.tolist()), wanted, atol=1e-5)
    device.take(small)
    np.testing.assert_allclose(device.scores(ONE.tolist()), wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("form", [False, True])
def test_generators_are_trained_unless_published(form: bool) -> None:
    """The published program keeps them in plain lists, where no optimiser finds them."""
    trunk, maker = made("sasrec"), Duet(WIDTH, published=form)
    ids, counts = behind([ONE, OTHER], 8)
    mapped = through(torch.randn(2, WIDTH), maker(trunk.items(ids), counts), residual=maker.residual)
    functional.cross_entropy(trunk.scores(mapped)[:, 1:], torch.tensor([1, 2])).backward()
    if form:
        assert all(weight.grad is None for weight in maker.weights)
        assert not [name for name in maker.state_dict() if name.startswith(("weights", "biases"))]
    else:
        assert maker.weights[2].grad is not None and maker.weights[2].grad.abs().max() > 0
        assert maker.biases[2].grad is not None and maker.biases[2].grad.abs().max() > 0


def toy(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Histories whose older half shows a type of user, a state that knows the last item only, a target, and a label:
    type or else parity of the target."""
    random = np.random.default_rng(seed)
    kind, last, target = (random.integers(0, 2, count) for _ in range(3))
    ids = np.concatenate([np.repeat(kind[:, None] + 1, 3, 1), random.integers(3, 5, (count, 2)), last[:, None] + 3], 1)
    return *map(torch.from_numpy, (ids, last, target)), torch.from_numpy(kind ^ target).float()  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["static", "generated"])
def test_type_or_else_parity(way: str) -> None:
    """A head that does not know the user can't tell; a generated one can."""
    torch.manual_seed(0)
    table, last_vector, target_vector = torch.randn(5, 8), torch.randn(2, 8), torch.randn(2, 8)
    table[0] = 0
    maker = Duet(8) if way == "generated" else Static(8)
    optimiser = torch.optim.Adam(maker.parameters(), 0.01)
    counts = torch.full((256,), 6)
    for step in range(120):
        ids, last, target, label = toy(256, step)
        mapped = through(last_vector[last], maker(table[ids] / 8**0.5, counts))
        loss = functional.binary_cross_entropy_with_logits((mapped * target_vector[target]).sum(1), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ids, last, target, label = toy(256, 9999)
    with torch.no_grad():
        mapped = through(last_vector[last], maker(table[ids] / 8**0.5, counts))
    found = auc(label.bool().numpy(), (mapped * target_vector[target]).sum(1).double().numpy())
    assert found > 0.9 if way == "generated" else found < 0.65, found


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_training_begins_at_the_trunk(cycles: Sequences, name: str) -> None:
    """Before the first step the generated head adds nothing, so the choice on validation never loses to the trunk."""
    split = leave_one_out(cycles)
    trunk, maker = made(name, items=12), Duet(WIDTH)
    np.testing.assert_array_equal(trunk.score([ONE]), scorer(trunk, maker)([ONE]))
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    settings = Settings(epochs=6, rate=0.01, batch=64)
    log = train(trunk, maker, split, settings)
    assert max(row["ndcg@10"] for row in log) == pytest.approx(validate(trunk, maker, split, settings))
    assert log[-1]["ndcg@10"] > log[0]["ndcg@10"] + 0.1  # a random trunk leaves much to learn
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    again = Duet(WIDTH)
    assert [row["epoch"] for row in train(trunk, again, split, Settings(epochs=1))] == [0, 1]


@pytest.mark.parametrize("values", [{"epochs": 0}, {"rate": 0.0}, {"window": -1}, {"window": 10**9}, {"lag": -1}])
def test_impossible_settings(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(**values)


def test_published_form_trains_both(cycles: Sequences) -> None:
    split = last_events(cycles, 2)
    trunk, maker = published(SASRec, made("sasrec", items=12))
    assert not trunk.causal and not maker.residual
    before = trunk.items.weight.detach().clone()
    weights = [weight.clone() for weight in maker.weights]
    train(trunk, maker, split, Settings(epochs=1, batch=64))
    assert not torch.equal(before, trunk.items.weight)
    assert all(torch.equal(a, b) for a, b in zip(weights, maker.weights, strict=True))


@pytest.mark.parametrize("name", ["gru4rec", "din"])
def test_identity_of_the_generator(name: str) -> None:
    """An untrained generator's patch changes the head, but not what it gives; one of zeros changes nothing at all."""
    model = made(name)
    trunk = with_head(arrays(model), WIDTH)
    manifest = manifest_for(trunk)
    fresh = {name: tensor[0].detach().numpy() for name, tensor in heads_for(model, Duet(WIDTH), [ONE]).items()}
    device = Device(model.name, model.shape.to_json(), trunk, manifest)
    before = device.scores([1, 2])
    device.take(encode(full(fresh, manifest), trunk, manifest))
    np.testing.assert_array_equal(device.scores([1, 2]), before)
    same = receive(encode(identity("full", trunk, manifest), trunk, manifest), trunk, manifest)
    assert all(same[name].tobytes() == trunk[name].tobytes() for name in shapes(WIDTH))
