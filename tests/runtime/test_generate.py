from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import UsageError
from tailorbird.runtime.completion import Completion, Sampling
from tailorbird.runtime.load import load
from tailorbird.runtime.sampling import Chance, choose
from tailorbird.runtime.stream import StopText, TextStream


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt"])
def test_greedy_text_is_what_whole_forward_passes_give(make_packed: Any, family: str) -> None:
    model = load(make_packed(family))
    # The native decoder rounds keys and values, and these random models waver between tokens; its logits are compared
    # in test_decoder.py.
    model.__dict__["decoder"] = None
    ids = model.tokenizer.prompt("The tailorbird")
    start = len(ids)
    for _ in range(12):
        best = int(model.logits(torch.tensor([ids]), keep=1).argmax())
        if best in model.tokenizer.eos:
            break
        ids.append(best)
    text = model.tokenizer.decode(ids)[len(model.tokenizer.decode(ids[:start])) :]
    assert "".join(model.generate("The tailorbird", 12)) == text


def test_the_seed_decides(make_packed: Any) -> None:
    model = load(make_packed("llama"))

    def text(seed: int, **settings: Any) -> str:
        return "".join(model.generate("A", 20, temperature=1.0, seed=seed, **settings))

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1
    assert text(5, top_k=1) == text(6, top_k=1) == "".join(model.generate("A", 20))
    assert text(5, top_p=1e-9) == text(6, top_p=1e-9) == text(5, top_k=1)


def test_length_limits(make_packed: Any) -> None:
    model = load(make_packed("llama"))
    assert list(model.generate("A", 0)) == []
    # The model looks at 64 tokens: generation ends there, however many are asked for.
    assert "".join(model.generate("A", 1000)) == "".join(model.generate("A", 62))
    with pytest.raises(UsageError, match="more than the 64"):
        model.generate("tailorbird " * 40)


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.1}, {"max_new_tokens": -1}]
)
def test_settings_that_can_not_be(make_packed: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        load(make_packed("llama")).generate("A", **wrong)


def test_stop_texts_are_not_given_out(make_packed: Any) -> None:
    model = load(make_packed("llama"))
    whole = "".join(model.generate("The", 20))
    stop = whole[5:8]
    assert "".join(model.generate("The", 20, stop=[stop])) == whole[: whole.index(stop)]


def test_end_tokens_end(make_packed: Any) -> None:
    model = load(make_packed("llama"))
    ids = model.tokenizer.prompt("The")
    model.tokenizer.eos = (int(model.logits(torch.tensor([ids]), keep=1).argmax()),)
    assert list(model.generate("The", 20)) == []


class Bytes:
    """A tokenizer with one token a byte, whose texts lose a space at their start, as SentencePiece's do."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


@given(st.text(max_size=60), st.text(min_size=1, max_size=200))
def test_pieces_are_whole_characters_and_join_to_the_text(prompt: str, text: str) -> None:
    stream = TextStream(Bytes(), list(prompt.encode()))
    pieces = [stream.push(byte) for byte in text.encode()] + [stream.finish()]
    expected = text if prompt else text.removeprefix(" ")
    assert "".join(pieces) == expected
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)


def test_a_character_cut_off_at_the_end_shows_as_such() -> None:
    stream = TextStream(Bytes(), [65])
    assert [stream.push(byte) for byte in "é".encode()[:1]] == [""]
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_stop_texts_end_where_the_first_is_complete(text: str, stop: list[str], size: int) -> None:
    limit = StopText(stop)
    given_out = ""
    seen = 0
    for start in range(0, len(text), size):
        if limit.done:
            break
        given_out += limit.push(text[start : start + size])
        seen = min(start + size, len(text))
    given_out += limit.finish()
    found = [at for word in stop if (at := text[:seen].find(word)) >= 0]
    assert limit.done == bool(found)
    assert given_out == (text[: min(found)] if found else text)


def test_drawing_follows_the_chances() -> None:
    chance = Chance(0)
    chances = torch.tensor([0.5, 0.3, 0.2, 0.0])
    logits = chances.log().numpy()
    drawn = torch.tensor([choose(logits, chance, temperature=1.0) for _ in range(2000)]).bincount(minlength=4) / 2000
    assert torch.allclose(drawn, chances, atol=0.04)
    drawn = torch.tensor([choose(logits, chance, temperature=1.0, top_p=0.7) for _ in range(500)]).bincount(minlength=4)
    assert drawn[2] == drawn[3] == 0 and drawn[1] > 0
    drawn = torch.tensor([choose(logits, chance, temperature=1.0, min_p=0.5) for _ in range(500)]).bincount(minlength=4)
    assert drawn[2] == drawn[3] == 0 and drawn[1] > 0
    assert choose(logits, chance) == choose(logits, chance, temperature=1e-300) == 0


def test_a_completion_keeps_count(make_packed: Any) -> None:
    model = load(make_packed("llama"))
    ids = model.tokenizer.prompt("The")
    completion = model.complete(ids, Sampling(9))
    assert (completion.prompt_tokens, completion.tokens, completion.finish) == (len(ids), 0, None)
    pieces = list(completion)
    assert len(pieces) in (9, 10) and "".join(pieces) == "".join(model.generate("The", 9))
    assert (completion.tokens, completion.finish) == (9, "length")
    text = "".join(pieces)
    stopped = model.complete(ids, Sampling(9, stop=[text[3]]))
    assert "".join(stopped) == text[: text.index(text[3])]
    assert stopped.finish == "stop" and stopped.tokens <= 9
    first = int(model.logits(torch.tensor([ids]), keep=1).argmax())
    model.tokenizer.eos = (first,)
    ended = model.complete(ids, Sampling(9))
    assert list(ended) == [] and (ended.tokens, ended.finish) == (1, "stop")


def test_keys_and_values_go_with_the_end(make_packed: Any) -> None:
    model = load(make_packed("llama"))
    steps = model.steps([0, 5], 3)
    alive = weakref.ref(steps)
    completion = Completion(steps, model.tokenizer, [0, 5], Sampling(3))
    del steps
    pieces = iter(completion)
    next(pieces)
    assert alive() is not None
    list(pieces)
    assert alive() is None and completion.tokens == 3


def test_completions_take_turns(make_packed: Any) -> None:
    model = load(make_packed("gemma3"))
    texts = ["The tailorbird", "A nest", "It sews"]
    running = [iter(model.complete(model.tokenizer.prompt(text), Sampling(12))) for text in texts]
    mixed = ["", "", ""]
    for _ in range(14):
        for index, pieces in enumerate(running):
            mixed[index] += next(pieces, "")
    assert mixed == ["".join(model.generate(text, 12)) for text in texts]


def test_limits_reach_beyond_the_likeliest_few() -> None:
    """Where chances are nearly even, all of a large vocabulary may be drawn from."""
    logits = torch.linspace(0, 1e-3, 3000)
    chance = Chance(0)
    for limits in ({"top_p": 0.9}, {"min_p": 0.5}, {"top_k": 2000}, {}):
        drawn = {choose(logits.numpy(), chance, 1.0, **limits) for _ in range(400)}  # type: ignore[arg-type]
        assert min(drawn) < 2000 and len(drawn) > 300
    for limits in ({"top_p": 1e-6}, {"min_p": 1.0}, {"top_k": 1}):
        assert choose(logits.numpy(), chance, 1.0, **limits) == 2999  # type: ignore[arg-type]
