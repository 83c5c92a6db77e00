"""The script that measures tailoring: what it scores was sent, and the page has what readers need to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailorbird.files import write_json
from tailorbird.tailor.learn import Settings
from tailorbird.tailor.staleness import stream_of
from tailorbird.tasks.sequences.dataset import Sequences
from tailorbird.tasks.sequences.metrics import paired
from tailorbird.tasks.sequences.ranking import full_ranking
from tailorbird.tasks.sequences.split import last_events

from .conftest import made

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def systems(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    import tailor_systems

    return tailor_systems


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    import tailor_page

    return tailor_page


def job(systems: Any, data: Sequences, seed: int = 0, kind: str = "gru4rec") -> Any:
    split, trunk = last_events(data, 2), made(kind, items=12, layers=1)
    about = {"name": kind, "shape": trunk.shape.to_json(), "settings": {"epochs": 1}}
    settings = Settings(seed=seed, epochs=1, samples=400, rate=0.02, lag=1)
    return systems.Job(trunk, about, split, stream_of(split, trunk), settings)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "gru4rec") for name in ("static", "duet", "published", "finetune", "diet", "dieting", "persona", "longer")]
    + [(name, "din") for name in ("published", "longer")],  # they make a trunk, and a DIN has sizes of its own
)
def test_every_system_gives_ranks_and_costs(
    systems: Any, cycles: Sequences, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailor_cost.RUNS", 1)
    monkeypatch.setattr(systems, "STEPS", ((2, 1e-3),))
    first, second = (systems.SYSTEMS[name](job(systems, cycles, seed, kind)) for seed in (0, 1))
    for found in (first, second):
        for ranks in found.ranks.values():
            assert ranks.shape == (60, 2) and ranks.min() >= 0 and ranks.max() < 12
    assert second.curve is None and (first.curve is not None) == (name in ("duet", "diet", "dieting", "persona"))
    if name == "longer":
        assert not first.costs
        return
    assert first.costs.keys() == first.ranks.keys()
    for costs in first.costs.values():
        assert costs["bytes_down"] > 47 and costs["make_ms"] >= 0
        assert (costs["bytes_up"] == 0) == (name == "static")


def test_what_is_scored_was_sent(systems: Any, cycles: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a wire that delivers nothing but zeros, a head of one's own is the trunk alone."""
    real = systems.send

    def zeros(*given: Any) -> Any:
        sent = real(*given)
        return type(sent)({name: np.zeros_like(value) for name, value in sent.heads.items()}, sent.nbytes)

    monkeypatch.setattr("tailorbird.tailor.fleet.send", zeros)
    monkeypatch.setattr(systems, "send", zeros)
    this = job(systems, cycles, seed=1)
    alone = full_ranking(this.split, this.trunk.score).ranks.reshape(-1, 2)
    for name in ("static", "duet", "finetune"):
        for ranks in systems.SYSTEMS[name](this).ranks.values():
            np.testing.assert_array_equal(ranks, alone)


def row(page: Any, name: str, values: np.ndarray | None, **more: Any) -> dict[str, Any]:
    figure = {"mean": 0.5 if values is None else float(values.mean()), "low": 0.0, "high": 1.0}
    kept = {} if values is None else {page.DEVICES: page.packed(values), "scored": "as sent"}
    figures = {"ndcg@10": figure, "hr@10": figure, "ndcg@10 p": 0.5, "hr@10 p": 0.5, "ndcg@10 by seed": [0.5]}
    return {"system": name, "epochs": 6} | figures | kept | more


def test_all_rows_are_paired(page: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    base = random.random(50)
    better, like = base + 0.1 * random.random(50), base + 0.01 * random.standard_normal(50)
    np.testing.assert_allclose(page.unpacked(page.packed(base)), base, atol=5e-7)
    costs = {"bytes_up": 80.0, "bytes_down": 2285.0, "make_ms": 0.0114, "encode_ms": 0.62}
    rows = [row(page, "a", better, **costs), row(page, page.ALONE, base), row(page, "b", like), row(page, "c", None)]
    about = {"devices": 50, "split": "last-10", "digest": "0" * 64, "parameters": 1}
    results = tmp_path / "benchmarks" / "results" / "tailor.json"
    results.parent.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    write_json(results, {"quality": {"sasrec on films": about | {"rows": rows}}})
    page.write_page(results)
    text = (tmp_path / "docs" / "tailored.md").read_text()
    assert "| 80 | 2,285 | 0.011 + 0.62 |" in text and "measured anew" in text
    assert "| row | 1 | 2 | 3 |" in text  # c has no means by device
    same = paired(page.unpacked(page.packed(better)), page.unpacked(page.packed(like)), draws=page.DRAWS)
    assert "| 1 |  | - < 0.001 | " in text and same < 0.001 and "| 2 |  |  | + < 0.001 |" in text
