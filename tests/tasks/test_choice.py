"""Multiple choice. What needs lm-eval runs where the extra is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import DataError, UsageError
from tailorbird.tasks.choice import evaluate_choices, questions
from tailorbird.tasks.harness import _batches, _Harness
from tailorbird.tasks.text import Tokenizer

ROWS = [
    {"query": "The tailorbird sews", "choices": ["leaves", "to fit its nest {{x}}", "日本"], "gold": 0, "id": "a"},
    {"query": "It stitches with", "choices": ["spider silk", "é"], "gold": 1},
    {"query": "Its nest", "choices": ["too", "a", "leaves too"], "gold": 2},
    {"query": "Silk", "choices": ["is spider", "too"], "gold": 0},
]


class Scored:
    """A tiny model, whole in memory."""

    max_length = 64

    def __init__(self, folder: Path, module: Any) -> None:
        self.tokenizer = Tokenizer.of(open_checkpoint(folder))
        self.module = module

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, keep: int = 0) -> torch.Tensor:
        return torch.as_tensor(self.module(input_ids=ids, logits_to_keep=keep).logits)

    def generate(self, prompt: str, count: int, *, temperature: float, stop: list[str]) -> Any:
        return iter([prompt.upper(), str(count), str(temperature), *stop])


@pytest.fixture
def model(make_model: Any) -> Scored:
    return Scored(*make_model("llama"))


def chance(model: Scored, context: str, rest: str) -> float:
    """Log-probability of a continuation, one text at a time, all positions."""
    whole, start = model.tokenizer.prompt(context + rest), len(model.tokenizer.prompt(context))
    chances = model.logits(torch.tensor([whole[:-1]])).log_softmax(-1)[0]
    return sum(chances[i - 1, whole[i]].item() for i in range(start, len(whole)))


def test_batched_and_padded_scores_equal_single_ones(model: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.tasks.harness.BATCH_TOKENS", 80)
    harness = _Harness(model)
    pairs = [(row["query"], " " + choice) for row in ROWS for choice in row["choices"]]
    requests = []
    for context, rest in pairs:
        whole, start = model.tokenizer.prompt(context + rest), len(model.tokenizer.prompt(context))
        requests.append(((context, rest), whole[:start], whole[start:]))
    found = harness._loglikelihood_tokens(requests)
    assert [value for value, _ in found] == pytest.approx([chance(model, *pair) for pair in pairs], rel=1e-5)
    best = int(model.logits(torch.tensor([[0, 5]]), keep=1).argmax())
    assert harness._loglikelihood_tokens([(None, [0, 5], [best])])[0][1]
    assert not harness._loglikelihood_tokens([(None, [0, 5], [(best + 1) % 320])])[0][1]


def test_contexts_longer_than_the_model_lose_their_start(model: Scored) -> None:
    ids = torch.randint(2, 320, (100,), generator=torch.Generator().manual_seed(0)).tolist()
    harness = _Harness(model)
    long, short = harness._loglikelihood_tokens([(None, ids[:95], ids[95:]), (None, ids[35:95], ids[95:])])
    assert long == pytest.approx(short, rel=1e-5)


def test_batches_are_bounded_and_hold_everything_once() -> None:
    texts = [[0] * n for n in (5, 900, 30, 30, 4000, 7, 1)]
    made = list(_batches(texts, [1] * 7, 1000))
    assert sorted(i for batch in made for i in batch) == list(range(7))
    assert all(len(batch) * len(texts[batch[0]]) <= 4096 for batch in made)


def test_generation_follows_the_tasks_settings(model: Scored) -> None:
    request = SimpleNamespace(args=("ab", {"until": "\n", "max_gen_toks": 7, "temperature": 0.5}))
    drawn = SimpleNamespace(args=("ab", {"until": ["x", "y"], "do_sample": True, "temperature": 0.5}))
    assert _Harness(model).generate_until([request, drawn]) == ["AB70.0\n", "AB2560.5xy"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"query": "a", "choices": ["b"]}', "line 2: not a question"),
        ('{"query": "a", "choices": ["b"], "gold": 1}', "line 2: not a question"),
        ('{"query": "a", "choices": ["b"], "gold": true}', "line 2: not a question"),
        ('{"query": "a", "choices": "b", "gold": 0}', "line 2: not a question"),
        ('{"query": 1, "choices": ["b"], "gold": 0}', "line 2: not a question"),
        ("[]", "line 2: not a question"),
        ("{", "line 2: not JSON"),
        ("\xff", "not UTF-8"),
    ],
)
def test_wrong_questions(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + line.encode("latin-1"))
    with pytest.raises(DataError, match=reason):
        questions(path)


def test_no_questions(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no questions"):
        questions(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="not a file"):
        questions(tmp_path / "none.jsonl")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_through_lm_eval(model: Scored, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    path = tmp_path / "birds.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    found = evaluate_choices(model, [str(path)])
    scores = [[chance(model, row["query"], " " + choice) for choice in row["choices"]] for row in ROWS]
    lengths = [[len(choice) for choice in row["choices"]] for row in ROWS]
    right = [max(range(len(s)), key=s.__getitem__) == row["gold"] for s, row in zip(scores, ROWS, strict=True)]
    by_length = [[a / b for a, b in zip(s, n, strict=True)] for s, n in zip(scores, lengths, strict=True)]
    normed = [max(range(len(s)), key=s.__getitem__) == row["gold"] for s, row in zip(by_length, ROWS, strict=True)]
    assert set(found) == {"birds"}
    assert found["birds"]["acc"] == sum(right) / 4
    assert found["birds"]["acc_norm"] == sum(normed) / 4
    assert found["birds"]["n"] == 4 and found["birds"]["acc_stderr"] >= 0
    assert evaluate_choices(model, [str(path)], limit=2)["birds"]["n"] == 2
    with pytest.raises(UsageError, match="no task 'no-such-task'"):
        evaluate_choices(model, ["no-such-task"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_whole_texts_through_lm_eval(model: Scored) -> None:
    pytest.importorskip("lm_eval")
    text = "The tailorbird stitches leaves to fit its nest. " * 12
    ids = model.tokenizer.encode(text)
    assert len(ids) > model.max_length
    found = _Harness(model).loglikelihood_rolling([SimpleNamespace(args=(text,))])
    first = [0, *ids[:64]]
    chances = model.logits(torch.tensor([first[:-1]])).log_softmax(-1)[0]
    partial = sum(chances[i, token].item() for i, token in enumerate(first[1:]))
    assert found[0] < partial < 0
