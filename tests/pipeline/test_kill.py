"""Killed at any moment and resumed, a job ends with the same digest; so it does after Ctrl-C and a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "killed.py"


def _run(scenario: str, work: Path, seed: int = 0, kills: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), scenario, str(work), str(seed), str(kills)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["same"], found
    return found


def test_a_few_kills(tmp_path: Path) -> None:
    found = _run("kill", tmp_path, seed=11, kills=5)
    assert len(found["ends"]) >= 5 and set(found["ends"]) == {9}


def test_a_few_kills_of_a_method_that_learns(tmp_path: Path) -> None:
    assert set(_run("learn", tmp_path, seed=5, kills=3)["ends"]) == {9}


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    found = _run("kill", tmp_path, seed=1, kills=30)
    assert len(found["ends"]) >= 30 and set(found["ends"]) == {9}
    assert found["moments"] > 500  # calls before which it could have struck, verification included


@pytest.mark.slow
def test_kills_at_random_times(tmp_path: Path) -> None:
    assert set(_run("times", tmp_path, seed=3, kills=8)["ends"]) == {9}


@pytest.mark.slow
def test_kills_while_a_fresh_process_verifies(tmp_path: Path) -> None:
    # Most of this job's time is the verifying process, which outlives the kill and must do no harm.
    assert set(_run("afresh", tmp_path, seed=8, kills=2)["ends"]) == {9}


def test_kills_between_the_last_rename_and_the_end(tmp_path: Path) -> None:
    found = _run("rename", tmp_path)
    assert found["unverified"] and found["ends"] == [9, 9, "done", "done"]


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    assert set(_run("interrupt", tmp_path, seed=2, kills=4)["ends"]) == {"interrupted"}


def test_a_full_disk(tmp_path: Path) -> None:
    assert _run("full", tmp_path, seed=4, kills=7)["ends"] == ["full"] * 7 + ["done"]
