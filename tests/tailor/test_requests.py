"""Policies of requests, streams and their staleness, and a detector that beats dice where there is something to see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tailorbird.errors import DataError, UsageError
from tailorbird.tailor.ask import DRAWS, LATENT
from tailorbird.tailor.fleet import Fleet
from tailorbird.tailor.head import NAMES, manifest_for, mapped
from tailorbird.tailor.intellectreq import (
    FORMS,
    Detector,
    detect,
    divergence,
    freeze,
    learn,
    mapper,
    pairs,
    parted,
    uncertainty,
)
from tailorbird.tailor.patch import full
from tailorbird.tailor.requests import ALWAYS, NEVER, POLICIES, Situation, calibrate, diced, drift, every, rate, replay
from tailorbird.tailor.simulate import replayed
from tailorbird.tailor.staleness import NEVER as ABSENT
from tailorbird.tailor.staleness import Stream, quality, rank_table, ranks_of, send, stream_of
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import hit
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import last_events, leave_one_out

from .conftest import arrays, made, random_head

STATES = np.random.default_rng(0).standard_normal((200, 10, 4)).astype(np.float32)


def test_never_always_and_every_n() -> None:
    for policy in POLICIES.values():
        assert (replay(STATES, policy, NEVER) == 0).all()
        assert (replay(STATES, policy, ALWAYS) == np.arange(10)).all()
    used = replay(STATES, every, 2.0)  # every three events
    assert (used[0] == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]).all()


def test_drift_is_the_turn_of_the_state() -> None:
    now = np.array([[1, 0], [0, 2], [-3, 0]], np.float32)
    then = np.array([[5, 0], [1, 0], [1, 0]], np.float32)
    seen = Situation(now, then, np.ones(3, np.int64), np.zeros(3, np.float32))
    np.testing.assert_allclose(drift(seen), [0, 1, 2], atol=1e-6)


@pytest.mark.parametrize("name", ["drift", "random"])
@pytest.mark.parametrize("budget", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_budgets_are_kept(name: str, budget: float) -> None:
    threshold = calibrate(STATES, POLICIES[name], budget, seed=7)
    assert budget - 0.04 <= rate(replay(STATES, POLICIES[name], threshold, seed=7)) <= budget
    assert rate(replay(STATES, POLICIES[name], threshold, seed=8)) == pytest.approx(budget, abs=0.05)


def test_dice_ask_exactly_so_often() -> None:
    for requests in (0, 1, 777, 200 * 9):
        used = diced(200, 10, requests, seed=3)
        asked = used[:, 1:] == np.arange(1, 10)
        assert asked.sum() == requests and (used[:, 0] == 0).all()
        assert (used[:, 1:][~asked] == used[:, :-1][~asked]).all()  # whoever does not ask keeps what was there
    assert (diced(200, 10, 777, seed=3) == diced(200, 10, 777, seed=3)).all()
    assert (diced(200, 10, 777, seed=3) != diced(200, 10, 777, seed=4)).any()
    with pytest.raises(UsageError, match="1801 requests"):
        diced(200, 10, 1801)


def test_learned_policies_are_held_against_dice_of_their_own_rate() -> None:
    """Devices of the test turn more often than those of validation, so nobody keeps the budget."""
    fleets = [
        Fleet(stream, np.ones_like(stream.at), table, 5) for stream, table in (drifting(120, 0), drifting(120, 1))
    ]
    trial, real = fleets
    states = real.stream.states.copy()
    states[::2, 1::2] *= -1
    real = dataclasses.replace(real, stream=dataclasses.replace(real.stream, states=states))
    items = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    found = replayed(trial, real, items, budgets=(0.0, 0.3, 0.6))
    rows = {(row["policy"], row["budget"]): row for row in found["rows"]}
    assert [row["budget"] for row in found["against_random"]] == [0.3, 0.6] * len(FORMS)
    for row in found["against_random"]:
        mine = rows[row["policy"], row["budget"]]
        assert row["random_rate"] == pytest.approx(mine["rate"], abs=1e-12) == pytest.approx(row["rate"], abs=1e-12)
    gaps = [abs(row["rate"] - rows["random", row["budget"]]["rate"]) for row in found["against_random"]]
    assert max(gaps) > 0.05  # what the same budget would have compared


@pytest.mark.parametrize("devices", [50, 1500])
def test_a_budget_is_met_to_one_device(devices: int) -> None:
    """Of scores that all differ, one decision a device: the share of requests is the budget within 1 / devices."""
    states = np.random.default_rng(3).standard_normal((devices, 2, 4)).astype(np.float32)
    for budget in (0.0, 0.013, 0.1, 0.3333, 0.5, 0.77, 0.999, 1.0):
        share = rate(replay(states, drift, calibrate(states, drift, budget)))
        assert 0 <= budget - share <= 1 / devices


def test_constants_never_ask_at_an_inner_threshold() -> None:
    def constant(seen: Situation) -> np.ndarray:
        return np.zeros(len(seen.now), np.float32)

    assert rate(replay(STATES, constant, calibrate(STATES, constant, 0.5))) == 0

    def bad(seen: Situation) -> np.ndarray:
        return np.full(len(seen.now), np.nan, np.float32)

    with pytest.raises(UsageError, match="policy"):
        replay(STATES, bad, 0.0)
    with pytest.raises(UsageError, match="budget"):
        calibrate(STATES, drift, 1.5)


def test_last_events(cycles: Sequences) -> None:
    split = last_events(cycles, 2)
    assert split.name == "last-2" and len(split.test) == len(split.validation) == 120
    for user in (0, 7):
        mine = split.test.at[split.test.user == user]
        assert mine.tolist() == [cycles.offsets[user + 1] - 2, cycles.offsets[user + 1] - 1]
        assert split.train_end[user] == cycles.offsets[user + 1] - 4
    assert (split.validation.at + 2 == split.test.at).all()
    assert len(np.unique(last_events(cycles, 3).test.user)) == 40  # the others are too short
    with pytest.raises(DataError, match="no user of 300"):
        last_events(cycles, 100)


@pytest.mark.parametrize("name", ["sasrec", "din"])
def test_the_table_holds_every_age(cycles: Sequences, name: str) -> None:
    """What a policy reads from the table is what ranking with those heads gives."""
    split, model = last_events(cycles, 2), made(name, items=12)
    stream = stream_of(split, model)
    items = arrays(model)["items.weight"]
    shape = stream.at.shape
    heads = {
        n: np.stack([random_head(k)[n] for k in range(shape[0] * 2)]).reshape(*shape, *random_head()[n].shape)
        for n in NAMES
    }
    table = rank_table(stream, heads, items)
    wanted = full_ranking(split, model.score).ranks.reshape(shape)
    np.testing.assert_array_equal(ranks_of(table, np.full(shape, -1)), wanted)
    assert (table[:, 0, 2] == ABSENT).all() and (table[:, 1] != ABSENT).all()
    for device in (0, 5):
        head = {n: heads[n][device, 0] for n in NAMES}
        history, target = stream.history(device, 1), split.data.items[stream.at[device, 1]]
        state = stream.towards(history) if stream.towards else stream.states[device, 1]
        scores = (items * mapped(state, head)).sum(1)
        among = [i for i in range(1, 13) if i == target or i not in history]
        assert table[device, 1, 1] == sum(scores[i] >= scores[target] for i in among) - 1
    with pytest.raises(DataError, match="no stream"):
        stream_of(leave_one_out(cycles), model)
    with pytest.raises(UsageError, match="-5 devices"):
        stream_of(split, model, devices=-5)


def test_heads_go_through_the_wire(cycles: Sequences) -> None:
    split, model = last_events(cycles, 2), made("gru4rec", items=12)
    stream = stream_of(split, model, devices=3)
    trunk = arrays(model) | {n: np.zeros_like(v) for n, v in random_head().items()}
    manifest = manifest_for(trunk)
    sent = send(stream, lambda h: [full(random_head(4), manifest)] * len(h), trunk, manifest)
    assert sent.nbytes.shape == (3, 2) and 0 < sent.nbytes.max() <= manifest.max_bytes
    for name, value in random_head(4).items():
        assert 0 < np.abs(sent.heads[name][1, 1] - value).max() <= 0.01 * np.abs(value).max()


def drifting(devices: int, seed: int) -> tuple[Stream, np.ndarray]:
    """Half of the devices turn from one side of the states to the other at some event; heads from before a turn are
    wrong after it, all others right."""
    random = np.random.default_rng(seed)
    events = 6
    turn = np.where(random.random(devices) < 0.5, random.integers(1, events, devices), events)
    side = (
        np.where(np.arange(events) >= turn[:, None], -1.0, 1.0) * np.where(random.random(devices) < 0.5, 1, -1)[:, None]
    )
    states = random.normal(0, 0.3, (devices, events, 8))
    states[:, :, 0] += 2 * side
    table = np.full((devices, events, events + 1), ABSENT, np.int64)
    table[:, :, 0] = 99
    for i in range(events):
        for j in range(i + 1):
            table[:, i, j + 1] = np.where(side[:, i] == side[:, j], 0, 99)
    items = np.where(side > 0, 1, 2).reshape(-1)  # what follows tells the sides apart, so stage 2 keeps them apart
    split = last_events(Sequences("drift", np.arange(devices + 1) * events, items, 5), 1)
    at = np.arange(devices * events).reshape(devices, events)
    return Stream(split, np.arange(devices), at, states.astype(np.float32)), table


def test_a_detector_beats_dice_where_states_turn() -> None:
    trial, table = drifting(300, 0)
    items = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    real, truth = drifting(300, 1)
    known, held = parted(trial, table)
    report = learn(mapper(known[0], items), known, (real, truth))
    assert report.auc > 0.8
    learned = replay(real.states, report.requester, calibrate(held[0].states, report.requester, 0.5))
    assert rate(learned) < 0.6
    random = diced(300, 6, round(rate(learned) * 300 * 5))
    assert rate(random) == pytest.approx(rate(learned), abs=1e-12)
    uses = {"learned": learned, "random": random}
    gains = {name: float(hit(ranks_of(truth, used), 10)[:, 1:].mean()) for name, used in uses.items()}
    old, fresh = (hit(ranks_of(truth, replay(real.states, drift, t)), 10)[:, 1:].mean() for t in (NEVER, ALWAYS))
    assert fresh == 1 and (gains["learned"] - old) / (fresh - old) > 0.95 > 0.9 > (gains["random"] - old) / (
        fresh - old
    )


def test_no_device_is_both_learned_from_and_judged_by() -> None:
    """Neither stage sees the held-out devices: with other events there, the same detector comes out."""
    trial, table = drifting(50, 0)
    known, held = parted(trial, table)
    assert len(held[0].users) == 10 and not set(known[0].users) & set(held[0].users)
    np.testing.assert_array_equal(known[1], table[known[0].users])
    states, other = trial.states.copy(), table.copy()
    states[held[0].users], other[held[0].users] = 7.0, 99
    items = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    found = [
        detect("intellectreq", parted(dataclasses.replace(trial, states=s), t)[0], held, items).model.state_dict()
        for s, t in ((trial.states, table), (states, other))
    ]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    with pytest.raises(DataError, match="2 devices"):
        parted(*drifting(2, 0))


@pytest.mark.parametrize("form", FORMS)
def test_a_device_decides_as_the_cloud_meant(form: str) -> None:
    """The detector in numpy gives the scores of torch, for many devices and for one."""
    trial, table = drifting(60, 0)
    known, held = parted(trial, table)
    items = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
    report = detect(form, known, held, items)
    asking = report.asking(0.25, 0.5)
    now, then, _ = pairs(*held)
    since, drawn = np.ones(len(now), np.int64), np.zeros(len(now), np.float32)
    wanted = report.requester(Situation(now, then, since, drawn))
    np.testing.assert_allclose(asking.scores(now, then), wanted, atol=1e-5, rtol=1e-5)
    assert np.ptp(wanted) > 1e-3 and asking.scores(now, then).dtype == np.float32
    edge = dataclasses.replace(asking, threshold=float(np.median(wanted)) + 1e-4)
    one = [edge.asks(a, b) for a, b in zip(now, then, strict=True)]
    assert one == (wanted > edge.threshold).tolist() and 0 < sum(one) < len(one)
    assert "posterior.decode.weight" not in asking.tensors  # what only training needs stays in the cloud


def test_published_uncertainty_and_draws() -> None:
    """Uniform draws, a spread over dimensions, a pair of states without their distance."""
    torch.manual_seed(0)
    plain, published = Detector(8), Detector(8, published=True)
    assert 0 <= float(published.noise.min()) <= float(published.noise.max()) <= 1 and plain.noise.min() < 0
    now, then = torch.randn(2, 3, 8)
    assert published.features(now, then)[0].shape == (3, 16) and plain.features(now, then)[0].shape == (3, 24)
    with torch.no_grad():  # draws that all say the same are certain; as published they are not
        for model in (plain, published):
            model.prior.decode.weight.zero_()
    assert plain.features(now, then)[1].max() < 1e-12 and published.features(now, then)[1].min() > 1e-3


def test_stage_three_moves_nothing_else() -> None:
    trial, table = drifting(40, 0)
    torch.manual_seed(0)
    model = Detector(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(freeze(model, 3), 0.01)
    now, then, right = map(torch.from_numpy, pairs(trial, table))
    torch.nn.functional.binary_cross_entropy_with_logits(model(now, then), right).backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {"pair.weight", "pair.bias", "score.weight", "score.bias"}


def test_divergence_and_uncertainty() -> None:
    zero, one = torch.zeros(3, LATENT), torch.ones(3, LATENT)
    assert divergence((one, one), (one, one)).abs().max() == 0
    np.testing.assert_allclose(divergence((zero, zero), (one, zero)), 8.0)
    same = torch.randn(1, 3, 5).expand(DRAWS, 3, 5)
    assert uncertainty(same).max() == 0
    np.testing.assert_allclose(uncertainty(same, published=True), DRAWS * same[0].var(1, unbiased=False), rtol=1e-5)


def test_gain_is_about_the_fresh_head() -> None:
    trial, table = drifting(20, 3)
    table[:, :, 1:][table[:, :, 1:] == 0] = 50  # never right, yet fresh heads are better than wrong ones
    assert pairs(trial, table)[2].max() == 0
    assert 0 < pairs(trial, table, gain=True)[2].mean() < 1


def test_quality_counts_devices_once() -> None:
    found = quality(np.array([[0, 20], [20, 20]]))
    assert found["hr@10"].mean == 0.25 and found["ndcg@10"].mean == 0.25
