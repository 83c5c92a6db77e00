"""The page of the measured recommenders has an interval wherever a row has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tailorbird.files import write_json

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def row(model: str, seed: int, mean: float, *, known: bool = True) -> dict[str, Any]:
    figure = {"mean": mean} | ({"low": mean - 0.01, "high": mean + 0.02} if known else {})
    return {
        "data": "ml-100k", "digest": "ab" * 32, "model": model, "seed": seed, "machine": "a", "torch": "2", "date": "d",
        "options": {"threads": 1}, "parameters": 10, "epochs": 3, "cpu_seconds_to_best": 2.0, "samples_per_cpu_s": 5.0,
        "test": {"ndcg@10": figure, "hr@10": figure},
    }  # fmt: skip


def test_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    import recommenders_page

    rows = [row("sasrec", 0, 0.1), row("gru4rec", 0, 0.2), row("gru4rec", 1, 0.3), row("din", 0, 0.4, known=False)]
    write_json(tmp_path / "benchmarks" / "results" / "recommenders.json", {"rows": rows})
    (tmp_path / "docs").mkdir()
    recommenders_page.write_page(tmp_path / "benchmarks")
    lines = (tmp_path / "docs" / "recommenders.md").read_text().splitlines()
    cells = {line.split(" | ")[0]: line.split(" | ")[2] for line in lines if line.startswith("| ")}
    assert cells["| sasrec"] == "0.1000 [0.0900, 0.1200]" and cells["| din"] == "0.4000"
    assert cells["| gru4rec"] == "0.2500 ± 0.0707 [0.2400, 0.2700]"
