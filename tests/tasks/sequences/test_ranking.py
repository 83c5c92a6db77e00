"""Splits, ranks and figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import DataError
from tailorbird.tasks.sequences import sources
from tailorbird.tasks.sequences.baselines import markov, popularity
from tailorbird.tasks.sequences.dataset import Ints, Sequences
from tailorbird.tasks.sequences.metrics import auc, beaten, hit, interval, ndcg, paired, per_user, summary
from tailorbird.tasks.sequences.ranking import Scorer, draw_candidates, full_ranking, pessimistic, sampled_ranking
from tailorbird.tasks.sequences.split import Cases, Split, by_time, leave_one_out


def by_hand(data: Sequences, users: list[int], at: list[int]) -> Split:
    cases = Cases(np.array(users), np.array(at))
    return Split(data, "by hand", np.zeros(data.users, np.int64), cases, cases)


def constant(data: Sequences, value: float = 0.0) -> Scorer:
    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        return np.full((len(histories), data.count + 1), value, np.float32)

    return score


def test_leave_one_out(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    last = cycles.offsets[1:] - 1
    assert (split.test.at == last).all() and (split.validation.at == last - 1).all()
    assert split.history(0, int(split.test.at[0])).tolist() == cycles.of(0)[:-1].tolist()
    assert split.train(0).tolist() == cycles.of(0)[:-2].tolist()


def test_short_users_only_train() -> None:
    data = Sequences("short", np.array([0, 2, 5, 8]), np.array([1, 2, 1, 2, 3, 3, 2, 1]), 3)
    split = leave_one_out(data)
    assert split.test.user.tolist() == [1, 2] and split.train(0).tolist() == [1, 2]
    some = Sequences("some", data.offsets, data.items, 3, validated=np.array([True, True, False]))
    split = leave_one_out(some)
    assert split.validation.user.tolist() == [1] and split.test.user.tolist() == [1, 2]
    assert split.train(2).tolist() == [3, 2]  # its next-to-last event trains
    with pytest.raises(DataError, match="no user of three"):
        leave_one_out(Sequences("short", np.array([0, 2]), np.array([1, 1]), 1))


def test_nothing_of_the_future_trains(cycles: Sequences) -> None:
    split = by_time(cycles, 0.2, 0.2)
    assert cycles.times is not None
    train = np.concatenate([np.arange(a, b) for a, b in zip(cycles.offsets[:-1], split.train_end, strict=True)])
    assert cycles.times[train].max() < cycles.times[split.validation.at].min()
    assert cycles.times[split.validation.at].max() < cycles.times[split.test.at].min()
    assert (split.test.at > cycles.offsets[split.test.user]).all()  # there is a history
    with pytest.raises(DataError, match="no times"):
        by_time(Sequences("x", cycles.offsets, cycles.items, 12))
    with pytest.raises(DataError, match="shares"):
        by_time(cycles, 0.5, 0.5)


def test_ndcg_by_hand() -> None:
    assert ndcg(np.array([0, 1, 9, 10]), 10) == pytest.approx([1, 0.6309, 0.2891, 0], abs=1e-4)
    assert hit(np.array([0, 9, 10]), 10).tolist() == [1, 1, 0]


def test_a_constant_scorer_is_last(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    assert (full_ranking(split, constant(cycles), seen=True).ranks == 11).all()
    assert (full_ranking(split, constant(cycles, float("nan")), seen=True).ranks == 11).all()
    drawn = draw_candidates(split, 2, 0)
    assert (sampled_ranking(split, constant(cycles), drawn).ranks == 2).all()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, float("nan")]), min_size=4, max_size=4), min_size=1, max_size=5)
)
def test_ranks_by_definition(rows: list[list[float]]) -> None:
    scores = np.array([[9.0, *row] for row in rows], np.float32)
    targets = np.array([1 + i % 4 for i in range(len(rows))])
    for row, target, rank in zip(scores, targets, pessimistic(scores, targets), strict=True):
        others = [value for item, value in enumerate(row) if item not in (0, target)]
        expected = 3 if np.isnan(row[target]) else sum(value >= row[target] for value in others)
        assert rank == expected


def test_a_random_scorer_is_at_chance() -> None:
    """Ten right among a hundred and one, and ten among all items."""
    random = np.random.default_rng(0)
    data = Sequences("wide", np.arange(0, 3 * 4000 + 1, 3), random.integers(1, 501, 12_000), 500)
    split = leave_one_out(data)

    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        return random.random((len(histories), 501)).astype(np.float32)

    sampled = sampled_ranking(split, score, draw_candidates(split, 100, 1))
    assert hit(sampled.ranks, 10).mean() == pytest.approx(10 / 101, abs=0.015)
    assert hit(full_ranking(split, score, seen=True).ranks, 10).mean() == pytest.approx(10 / 500, abs=0.007)
    assert sampled.protocol.startswith("SAMPLED") and sampled.candidates == 101


def test_known_levels_on_real_data() -> None:
    """Popularity far above its level would be a leak. Levels as counted by others on the same events."""
    split = leave_one_out(sources.fetch("ml-latest-small"))
    chain = full_ranking(split, markov(split), seen=True)
    assert hit(chain.ranks, 10).mean() == pytest.approx(0.083, abs=0.003)
    common = full_ranking(split, popularity(split))
    assert 0.02 < hit(common.ranks, 10).mean() < 0.06


def test_markov_knows_a_chain(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    found = full_ranking(split, markov(split))
    assert (found.ranks == 0).all() and (found.top[:, 0] == cycles.items[split.test.at]).all()


def test_items_of_the_history_are_struck_out(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    found = full_ranking(split, popularity(split))
    for user, at, top in zip(split.test.user, split.test.at, found.top, strict=True):
        free = 12 - len(set(split.history(int(user), int(at)).tolist()))
        assert not set(top[:free].tolist()) & set(split.history(int(user), int(at)).tolist())


def test_scores_of_a_wrong_shape(cycles: Sequences) -> None:
    with pytest.raises(DataError, match="wanted"):
        full_ranking(leave_one_out(cycles), lambda histories: np.zeros((len(histories), 12), np.float32))


def test_candidates_were_never_met(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    drawn = draw_candidates(split, 2, 5)
    assert (drawn == draw_candidates(split, 2, 5)).all()
    for user, row in zip(split.test.user, drawn, strict=True):
        assert not set(row.tolist()) & set(cycles.of(int(user)).tolist()) and len(set(row.tolist())) == 2
    with pytest.raises(DataError, match="leaves"):
        draw_candidates(split, 12, 0)
    with pytest.raises(DataError, match="candidates for"):
        sampled_ranking(split, constant(cycles), drawn[:3])


def test_a_user_counts_once() -> None:
    values = per_user(np.array([1.0, 0.0, 0.0, 1.0]), np.array([3, 5, 5, 5]))
    assert values.tolist() == [1.0, pytest.approx(1 / 3)]


def test_intervals_hold_the_mean() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for seed in range(60):
        found = interval(random.random(100), seed)
        inside += found.low <= 0.5 <= found.high
    assert 51 <= inside <= 60  # 95 % of 60 is 57
    with pytest.raises(DataError):
        interval(np.array([]))


def test_paired() -> None:
    random = np.random.default_rng(2)
    base = random.random(300)
    assert paired(base, base) == 1.0
    assert paired(base + 0.1, base) < 0.001
    noise = [paired(base, base + random.normal(0, 0.1, 300), draws=400) for _ in range(40)]
    assert 0.2 < np.mean(noise) < 0.8  # no difference: any p-value is as likely
    with pytest.raises(DataError):
        paired(base, base[:-1])


def test_auc() -> None:
    labels = np.array([True, False, True, False])
    assert auc(labels, np.array([3.0, 1.0, 2.0, 0.0])) == 1
    assert auc(labels, np.array([1.0, 1.0, 1.0, 1.0])) == 0.5
    assert auc(labels, np.array([0.0, 1.0, 2.0, 2.0])) == pytest.approx((0 + 1.5) / 4)
    with pytest.raises(DataError):
        auc(np.array([True]), np.array([1.0]))


def test_auc_of_a_ranking() -> None:
    """Two users, one with two cases; worked out by hand."""
    data = Sequences("auc", np.array([0, 4, 7]), np.array([1, 2, 3, 1, 4, 4, 2]), 5)
    split = by_hand(data, users=[0, 0, 1], at=[2, 3, 6])
    scores = np.array([9, 1, 2, 3, 4, 3], np.float32)  # the pad's first; items 3 and 5 tie

    def score(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        return np.tile(scores, (len(histories), 1))

    ranks = full_ranking(split, score)
    assert ranks.others.tolist() == [
        2,
        2,
        3,
    ]  # without what was met: {4, 5}; {4, 5} again, as 1 itself stays; {1, 3, 5}
    # 3 is behind 4 and ties with 5; 1 is behind both; 2 is behind 3 and 5, above 1
    np.testing.assert_allclose(beaten(ranks), [0, 0, 1 / 3])
    found = summary(ranks, split)
    assert found["auc"].mean == pytest.approx(1 / 9) and found["user auc"].mean == pytest.approx(1 / 6)
    everything = full_ranking(split, score, seen=True)
    assert everything.others.tolist() == [4, 4, 4]
    np.testing.assert_allclose(beaten(everything), [2 / 4, 0, 1 / 4])
    few = sampled_ranking(split, score, np.array([[1, 4], [2, 3], [1, 3]]))
    np.testing.assert_allclose(beaten(few), [1 / 2, 0, 1 / 2])


def test_an_interval_with_weights_draws_users() -> None:
    values, counts = np.array([0.0, 1.0]), np.array([3, 1])
    found = interval(values, weights=counts)
    assert (found.mean, found.low, found.high) == (0.25, 0.0, 1.0)
    assert interval(values, weights=np.array([2, 2])) == interval(values)


def test_summary(cycles: Sequences) -> None:
    split = leave_one_out(cycles)
    found = summary(full_ranking(split, markov(split)), split)
    assert str(found["hr@10"]) == "1.0000 [1.0000, 1.0000]" and found["coverage@10"] == 1.0
    assert {"mrr", "ndcg@10 tail users", "hr@10 head users"} <= set(found)
    assert str(found["auc"]) == str(found["user auc"]) == "1.0000 [1.0000, 1.0000]"
    worst = summary(full_ranking(split, constant(cycles)), split)  # ties count against it
    assert str(worst["auc"]) == "0.0000 [0.0000, 0.0000]"
