"""HyTRec: three forms of one rule, what gates do to the memory, and what a long history is worth."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from tailorbird.errors import UsageError
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import by_time, last_events, leave_one_out
from tailorbird.zoo.recommenders.delta import chunked, recurrent
from tailorbird.zoo.recommenders.hytrec import HyTRec, HyTRecShape
from tailorbird.zoo.recommenders.hytrec_layers import Attention, Memory, Moment
from tailorbird.zoo.recommenders.hytrec_stream import Listener

SIZES: dict[str, Any] = {"items": 12, "length": 40, "width": 8, "layers": 2, "every": 2, "recent": 3, "dropout": 0.0}
DAY = 86_400


def made(**sizes: Any) -> HyTRec:
    torch.manual_seed(0)
    return HyTRec(HyTRecShape(**(SIZES | sizes))).eval()


def memory_inputs(length: int, seed: int = 0) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    q, k = (functional.normalize(torch.randn(2, 3, length, 4), dim=3) for _ in range(2))
    return q, k, torch.randn(2, 3, length, 4), torch.rand(2, 3, length), -torch.rand(2, 3, length)


def quadratic(q: Tensor, k: Tensor, v: Tensor, b: Tensor, g: Tensor) -> Tensor:
    """The rule over all pairs of events: what each adds to the memory follows from one system of equations."""
    length, total = q.shape[2], g.double().cumsum(2)
    kept = torch.exp(total[..., :, None] - total[..., None, :])
    lower = torch.ones(length, length, dtype=torch.float64).tril()
    known = kept * (k @ k.transpose(2, 3)) * lower.tril(-1)
    added = torch.linalg.solve(torch.eye(length, dtype=torch.float64) + b[..., None] * known, b[..., None] * v)
    return (lower * kept * (q @ k.transpose(2, 3))) @ added / math.sqrt(q.shape[3])


@pytest.mark.parametrize("chunk", [1, 16, 64, 256])
def test_chunked_is_recurrent_is_quadratic(chunk: int) -> None:
    inputs = memory_inputs(200)
    (slow, slow_state), (fast, fast_state) = recurrent(*inputs), chunked(*inputs, chunk=chunk)
    assert (slow - fast).abs().max() < 1e-5 and (slow_state - fast_state).abs().max() < 1e-5
    exact = quadratic(*(x.double() for x in inputs))
    assert (exact - fast).abs().max() < 1e-5


@pytest.mark.parametrize("form", [recurrent, chunked])
def test_a_write_replaces(form: Any) -> None:
    """With keys at right angles, nothing forgotten and all written, a read gives what was written last under a key."""
    k = torch.cat([torch.eye(4), torch.eye(4)[1:2], torch.zeros(4, 4)])[None, None]
    v = torch.randn(1, 1, 9, 4)
    q = torch.cat([torch.zeros(5, 4), torch.eye(4)])[None, None]
    b = torch.tensor([1.0] * 5 + [0.0] * 4)[None, None]
    read, _ = form(q, k, v, b, torch.zeros_like(b))
    torch.testing.assert_close(2 * read[0, 0, 5:], v[0, 0, [0, 4, 2, 3]])


@pytest.mark.parametrize("form", [recurrent, chunked])
def test_forgetting_all_leaves_the_suffix(form: Any) -> None:
    q, k, v, b, g = memory_inputs(100)
    g[:, :, 70] = -50.0
    whole, state = form(q, k, v, b, g)
    part, part_state = form(*(x[:, :, 70:] for x in (q, k, v, b, g)))
    torch.testing.assert_close(whole[:, :, 70:], part, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, part_state, atol=1e-5, rtol=1e-5)


def test_one_event_more_is_a_step() -> None:
    """A device keeps the memory and need not read the history again."""
    inputs = memory_inputs(101)
    whole, state = chunked(*inputs)
    _, before = chunked(*(x[:, :, :100] for x in inputs))
    step, after = recurrent(*(x[:, :, 100:] for x in inputs), state=before)
    torch.testing.assert_close(step[:, :, 0], whole[:, :, 100], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after, state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["local", "full"])
@pytest.mark.parametrize("recent", [1, 3])
def test_event_by_event_is_the_whole_model(attention: Any, recent: int) -> None:
    """Followed one by one, with times, the state is at every place what the model makes of the history anew."""
    model, random = made(attention=attention, recent=recent), np.random.default_rng(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    items, times = random.integers(1, 13, 40), random.integers(0, 2 * DAY, 40).cumsum()
    heard = Listener(model)
    for end in range(1, 41):
        heard.hear(int(items[end - 1]), int(times[end - 1]))
        ids, clock = (torch.from_numpy(x[None, :end]) for x in (items, times))
        with torch.no_grad():
            torch.testing.assert_close(heard.state(), model.last(ids, clock), atol=2e-5, rtol=1e-5)
    assert len(heard.events) == max(2 * recent, recent + 2)  # whatever the history's length
    for odd in ((13, int(times[-1])), (0, int(times[-1])), (1, 0)):
        with pytest.raises(UsageError, match="item"):
            heard.hear(*odd)
    with pytest.raises(UsageError, match="event by event"):
        Listener(made(freshness="write"))


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_older_events_weigh_less(causal: bool) -> None:
    """Of the same events, the longer ago the first was, the less of it is left; by forgetting or by a weaker write."""
    torch.manual_seed(0)
    memory = Memory(HyTRecShape(12, width=8, heads=2, period=DAY), 40, causal)
    x, there, sizes = torch.randn(1, 2, 8), torch.ones(1, 2, dtype=torch.bool), []
    for days in (0.0, 1.0, 10.0):
        gap = days * DAY
        write, forget = memory.gates(x, Moment(there, torch.tensor([[0.0, gap]]), torch.tensor([[gap, 0.0]])))
        write = torch.stack([write[:, :, 0], torch.zeros_like(write[:, :, 1])], 2)
        key = functional.normalize(torch.ones(1, 2, 2, 4), dim=3)
        sizes.append(chunked(key, key, torch.ones(1, 2, 2, 4), write, forget)[0][0, :, 1].norm(dim=1))
    assert (sizes[0] > sizes[1]).all() and (sizes[1] > sizes[2]).all()


@torch.no_grad()
def test_attention_in_blocks_is_attention_in_a_band() -> None:
    torch.manual_seed(0)
    layer = Attention(HyTRecShape(12, width=8, heads=2), 3)
    layer.distance.copy_(torch.randn(2, 3))
    x, there = torch.randn(2, 11, 8), torch.arange(11)[None] >= torch.tensor([[0], [4]])
    q, k, v = layer.qkv(x).view(2, 11, 3, 2, 4).permute(2, 0, 3, 1, 4)
    back = torch.arange(11)[:, None] - torch.arange(11)
    seen = (back >= 0) & (back < 3) & (there[:, None, None] | (back == 0))
    logits = q @ k.transpose(2, 3) / 2 + layer.distance[:, back.clamp(0, 2)]
    mixed = logits.masked_fill(~seen, -torch.inf).softmax(3) @ v
    wanted = layer.out(mixed.transpose(1, 2).reshape(2, 11, 8))
    zeros = torch.zeros(2, 11)
    torch.testing.assert_close(layer(x, Moment(there, zeros, zeros)), wanted)


@torch.no_grad()
def test_a_short_history_has_no_long_part() -> None:
    """With at most `recent` events the model is its attention alone, whatever the memory's weights are."""
    model, ids = made(recent=6), torch.tensor([[0, 3, 1, 4, 1, 5]])
    before = model.states(ids)
    for parameter in [*model.long.parameters(), *model.gate.parameters()]:
        parameter.add_(1.0)
    assert torch.equal(model.states(ids), before) and torch.equal(model.last(ids), before[:, -1])
    longer = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], 1)
    torch.testing.assert_close(model.last(longer), before[:, -1])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["local", "full"])
def test_the_last_state_is_the_last_of_all(attention: Any) -> None:
    """In batches with pads and times, too; and the past alone decides."""
    model = made(attention=attention)
    ids = torch.randint(1, 13, (2, 40))
    ids[1, :15] = 0
    times = torch.randint(0, DAY, ids.shape).cumsum(1)
    states = model.states(ids, times)
    torch.testing.assert_close(model.last(ids, times), states[:, -1])
    other_ids, other_times = ids.clone(), times.clone()
    other_ids[:, 30:] = 1 + other_ids[:, 30:] % 12
    other_times[:, 30:] += 9 * DAY
    again = model.states(other_ids, other_times)
    torch.testing.assert_close(again[0, :30], states[0, :30])
    torch.testing.assert_close(again[1, 15:30], states[1, 15:30])
    assert not torch.allclose(model.states(ids, 3 * times)[:, -1], states[:, -1])  # times matter


@torch.no_grad()
def test_the_written_age_knows_the_end() -> None:
    """`freshness=write` is not causal, and says so."""
    model, ids = made(freshness="write"), torch.randint(1, 13, (1, 40))
    times = torch.arange(40)[None] * (DAY // 24)
    later = times.clone()
    later[:, 39] += 100 * DAY
    assert not model.causal
    assert not torch.allclose(model.states(ids, times)[0, 20], model.states(ids, later)[0, 20])


def test_scores_of_unequal_histories(cycles: Sequences) -> None:
    """In whatever groups they are scored; times unknown are one moment."""
    model, split = made(), leave_one_out(cycles)
    cases = split.test
    histories = [split.history(int(u), int(a)) for u, a in zip(cases.user, cases.at, strict=True)]
    times = [split.moments(int(u), int(a)) for u, a in zip(cases.user, cases.at, strict=True)]
    together = model.score(histories, times)
    alone = np.concatenate([model.score([h], [t]) for h, t in zip(histories[:5], times[:5], strict=True)])
    np.testing.assert_allclose(together[:5], alone, atol=1e-5)
    np.testing.assert_allclose(model.score([histories[0]]), model.score([histories[0]], [None]))
    assert len(full_ranking(split, model.score, timed=True).ranks) == len(cases)


@pytest.mark.parametrize("form", ["decay", "write"])
def test_it_remembers_what_attention_cannot_see(form: Any) -> None:
    """The first event says what follows the twentieth; attention sees three."""
    model, random = made(freshness=form, length=20, width=16), np.random.default_rng(0)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(80):
        ids, target = marked(random)
        loss = functional.cross_entropy(model.scores(model.last(ids)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    ids, target = marked(random)
    right = (model.eval().scores(model.last(ids)).argmax(1) == target).float().mean()
    assert right > 0.9, right


def marked(random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Histories that begin with one of two marks, and the item that the mark announces."""
    mark = random.integers(1, 3, 64)
    ids = np.concatenate([mark[:, None], random.integers(5, 13, (64, 19))], 1)
    return torch.from_numpy(ids), torch.from_numpy(mark + 2)


def test_work_grows_with_the_length() -> None:
    """Twice the history, twice the multiplications; four times with attention over everything."""

    def work(length: int, **sizes: Any) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            made(length=1024, recent=16, **sizes).last(torch.ones(1, length, dtype=torch.int64))
        return counter.get_total_flops()

    assert work(1024) / work(512) < 2.1
    assert work(1024, attention="full") / work(512, attention="full") > 3


@pytest.mark.parametrize("divide", [leave_one_out, by_time, lambda data: last_events(data, 2)])
def test_the_period_knows_no_time_of_the_test(divide: Any) -> None:
    """Nor of validation: only the times of training events count."""
    random = np.random.default_rng(0)
    times = np.sort(random.integers(0, 1000, (6, 12)) * 100, axis=1).reshape(-1)
    items, offsets = random.integers(1, 9, 72), np.arange(0, 73, 12)
    split = divide(Sequences("made", offsets, items, 8, times))
    later = times.copy()
    for user in range(6):
        later[split.train_end[user] : offsets[user + 1]] += 10**6
    trained = HyTRec.sizes_of(split)
    assert HyTRec.sizes_of(dataclasses.replace(split, data=Sequences("made", offsets, items, 8, later))) == trained
    last = split.train_end - 1
    spans, gaps = (times[last] - times[offsets[:-1]])[last >= offsets[:-1]], (last - offsets[:-1]).clip(0)
    assert trained["period"] == pytest.approx(spans.sum() / gaps.sum())


def test_the_period_follows_from_the_data(cycles: Sequences) -> None:
    assert HyTRec.sizes_of(leave_one_out(cycles)) == {"items": 12, "period": 1.0}
    for odd in ({"recent": 0}, {"period": math.inf}, {"freshness": "new"}, {"attention": "none"}, {"every": 0}):
        with pytest.raises(UsageError):
            made(**odd)
