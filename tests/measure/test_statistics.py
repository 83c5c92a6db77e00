"""What is kept of the inputs, for parts that share them and for parts that are met more than once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tailorbird.errors import DataError
from tailorbird.fit.hessian import sweep_factor
from tailorbird.measure import statistics
from tailorbird.measure.statistics import SAMPLE, STRIPE, Collector, Stats, merged

BOTH = frozenset({"gram", "inputs"})


class Attention(nn.Module):
    """Two layers that read one tensor, and one that reads their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = (nn.Linear(6, 6, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.o(self.q(x) + self.k(x)))


class Looped(nn.Module):
    """One layer, met three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return x


def batches(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def collect(module: nn.Module, inputs: list[Tensor], needs: frozenset[str] = BOTH) -> Collector:
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    tokens = sum(batch.numel() // batch.shape[-1] for batch in inputs)
    with torch.no_grad(), Collector(layers, needs, tokens) as collector:
        for batch in inputs:
            with collector.batch():
                module(batch)
    return collector


def gram_of(tensors: list[Tensor]) -> Tensor:
    flat = torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]).double()
    return flat.T @ flat


def test_parts_that_read_one_tensor_share_their_statistics() -> None:
    torch.manual_seed(0)
    module, inputs = Attention(), batches(3, 2, 5, 6)
    collector = collect(module, inputs)
    assert collector.of("q") is collector.of("k") is not collector.of("o")
    for name, seen in (("q", inputs), ("o", [module.q(x) + module.k(x) for x in inputs])):
        stats = collector.of(name)
        assert stats.count == 30 and stats.gram is not None and stats.inputs is not None
        assert torch.allclose(stats.gram.double(), gram_of(seen), rtol=1e-4, atol=1e-4)
        assert torch.equal(stats.inputs, torch.cat([x.reshape(-1, 6) for x in seen]).detach())


def test_drift_is_from_what_the_original_reads_there() -> None:
    torch.manual_seed(0)
    module, xs = Attention(), batches(3, 2, 9, 6)
    ys = [x + 0.1 * torch.randn(x.shape) for x in xs]
    layers = {"q": module.q, "k": module.k, "o": module.o}
    with torch.no_grad(), Collector(layers, BOTH | {"drift"}, 54, ("q", "k")) as collector:
        for x, y in zip(xs, ys, strict=True):
            with collector.original():
                module(y)
            with collector.batch():
                module(x)
    x, y = (torch.cat(some).reshape(-1, 6) for some in (xs, ys))
    found, plain = collector.of("q"), collect(module, xs).of("q")
    assert found.drift is not None and torch.allclose(found.drift, (y - x).T @ x, atol=1e-4)
    assert found is collector.of("k") and collector.of("o").drift is None
    # The original's passes leave no other trace.
    assert found.count == 54 and torch.equal(found.gram, plain.gram) and torch.equal(found.inputs, plain.inputs)


def test_tokens_count_in_the_sums_what_they_are_said_to() -> None:
    torch.manual_seed(0)
    module, xs = Attention(), batches(3, 2, 9, 6)
    ys = [x + 0.1 * torch.randn(x.shape) for x in xs]
    weights = [{"q": torch.rand(18), "o": torch.rand(18)} for _ in xs]
    layers = {"q": module.q, "k": module.k, "o": module.o}
    with torch.no_grad(), Collector(layers, BOTH | {"drift"}, 54, ("q", "k")) as collector:
        for x, y, counts in zip(xs, ys, weights, strict=True):
            with collector.original():
                module(y)
            with collector.batch(counts):
                module(x)
    x, y = (torch.cat(some).reshape(-1, 6) for some in (xs, ys))
    count = torch.cat([counts["q"] for counts in weights])[:, None]
    q, k, plain = collector.of("q"), collector.of("k"), collect(module, xs)
    assert q.gram is not None and torch.allclose(q.gram, (count * x).T @ x, atol=1e-4)
    assert q.drift is not None and torch.allclose(q.drift, (count * (y - x)).T @ x, atol=1e-4)
    # The sample is of inputs as they are; a part without weights has plain sums, though it reads the same tensor.
    assert torch.equal(q.inputs, k.inputs) and torch.equal(k.gram, plain.of("k").gram)
    assert q.count == 54 and not torch.allclose(collector.of("o").gram, plain.of("o").gram)


def test_drift_of_several_passes_is_added_up() -> None:
    drifts = [torch.randn(3, 3) for _ in range(2)]
    found = merged([Stats(torch.eye(3), None, 1, drift) for drift in drifts]).drift
    assert found is not None and torch.equal(found, drifts[0] + drifts[1])


def test_a_layer_met_several_times_has_as_many_passes() -> None:
    torch.manual_seed(0)
    module, inputs = Looped(), batches(4, 7, 4)
    collector = collect(module, inputs)
    assert sorted(collector.stats) == [("layer", 0), ("layer", 1), ("layer", 2)]
    assert all(stats.count == 28 for stats in collector.stats.values())
    seen = [inputs]
    for _ in range(2):
        seen.append([torch.tanh(module.layer(x)).detach() for x in seen[-1]])
    for number, tensors in enumerate(seen):
        gram = collector.stats["layer", number].gram
        assert gram is not None and torch.allclose(gram.double(), gram_of(tensors), rtol=1e-4, atol=1e-4)
    together = collector.of("layer")
    assert together.count == 84 and together.gram is not None and together.inputs is not None
    assert torch.allclose(
        together.gram.double(), gram_of([x for tensors in seen for x in tensors]), rtol=1e-4, atol=1e-4
    )
    assert together.inputs.shape == (84, 4)


def test_no_token_is_lost_when_only_some_batches_are_shared() -> None:
    first, second = nn.Identity(), nn.Identity()
    shared, own = torch.ones(2, 3), 2 * torch.ones(2, 3)
    with Collector({"a": first, "b": second}, BOTH, 100) as collector:
        for left, right in ((own, shared), (shared, shared)):
            with collector.batch():
                first(left)
                second(right)
    assert collector.of("a").count == collector.of("b").count == 4
    gram = collector.of("b").gram
    assert gram is not None and torch.equal(gram, gram_of([shared, shared]).float())


def test_gram_matrices_of_several_stripes() -> None:
    layer = nn.Identity()
    inputs = batches(2, 9, 2 * STRIPE + 5)
    with Collector({"x": layer}, BOTH, 18) as collector:
        for x in inputs:
            with collector.batch():
                layer(x)
            # What was asked for in between is whole, and does not disturb what comes.
            gram = collector.of("x").gram
            assert gram is not None and torch.equal(gram.tril(-STRIPE), gram.triu(STRIPE).T)
    assert gram is not None and torch.allclose(gram.double(), gram_of(inputs), rtol=1e-4, atol=1e-4)


def test_what_comes_behind_the_last_is_left_out() -> None:
    """But only once a whole pass has shown that each is called once: experts are called where tokens go."""
    first, last, behind = nn.Identity(), nn.Identity(), []
    with Collector({"first": first, "last": last}, BOTH, 10) as collector:
        for experts in ([first], [first, last], [last], [first, last], [first, last], [last, first]):
            with collector.batch():
                for expert in experts:
                    expert(torch.ones(1, 2))
                behind.append(experts)
    assert [len(experts) for experts in behind] == [1, 2, 1, 2]
    assert collector.of("first").count == collector.of("last").count == 5


def test_only_what_is_needed_is_kept() -> None:
    for needs in (frozenset[str](), frozenset({"gram"}), frozenset({"inputs"})):
        stats = collect(Attention(), batches(1, 3, 6), needs).of("o")
        assert (stats.gram is not None) == ("gram" in needs)
        assert (stats.inputs is not None) == ("inputs" in needs)
        assert stats.count == 3


def test_listening_ends() -> None:
    module = Attention()
    collector = collect(module, batches(1, 2, 6))
    module(torch.ones(9, 6))
    assert collector.of("q").count == 2
    assert not any(layer._forward_pre_hooks for layer in module.modules())


def test_a_part_that_is_never_reached() -> None:
    layer = nn.Linear(2, 2)
    with Collector({"expert.7": layer}, BOTH, 10) as collector:
        pass
    with pytest.raises(DataError, match=r"expert\.7"):
        collector.of("expert.7")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 50))
def test_the_sample_is_even_and_bounded(lengths: list[int], sample: int) -> None:
    tokens, at = sum(lengths), 0
    layer = nn.Identity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SAMPLE", sample)
        with Collector({"x": layer}, BOTH, tokens) as collector:
            for length in lengths:
                with collector.batch():
                    layer(torch.arange(at, at + length).float()[:, None])
                at += length
    stats = collector.of("x")
    assert stats.inputs is not None and stats.count == tokens
    taken = stats.inputs[:, 0].tolist()
    step = collector.take
    assert taken == list(range(0, tokens, step))
    assert len(taken) <= sample and (tokens <= sample or len(taken) * 2 > min(sample, tokens // 2))


def test_the_factor_is_computed_once() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    stats = Stats(x.T @ x)
    upper, dead = stats.factor(0.01)
    assert stats.factor(0.01)[0] is upper
    assert torch.equal(upper, sweep_factor(x.T @ x, 0.01)[0]) and not dead.any()
    assert not torch.equal(stats.factor(0.1)[0], upper)


def test_statistics_that_were_not_measured() -> None:
    with pytest.raises(DataError, match="calibration") as caught:
        Stats().factor(0.01)
    assert caught.value.hint


def test_merged_counts_each_token_once() -> None:
    one, other = Stats(torch.eye(2), torch.ones(1, 2), 1), Stats(2 * torch.eye(2), torch.zeros(2, 2), 2)
    both = merged([one, other])
    assert both.count == 3 and both.gram is not None and torch.equal(both.gram, 3 * torch.eye(2))
    assert both.inputs is not None and both.inputs.shape == (3, 2)
    assert merged([one]) is one
    empty = merged([Stats(count=1), Stats(count=2)])
    assert empty.gram is None and empty.inputs is None and empty.count == 3


def test_the_sample_is_a_thousand_tokens() -> None:
    assert SAMPLE == 1024
