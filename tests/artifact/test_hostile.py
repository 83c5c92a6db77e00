"""At least a thousand mutated artifacts: each is read as what it is or refused with a reason, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "hostile.py"
# A verification may take the model's few hundred kilobytes, many times over, but nothing a mutation claims.
GROWTH = 48 * 2**20


def _run(base: Path, scratch: Path, seed: int, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(base), str(scratch), str(seed), str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_mutations(base: Path, tmp_path: Path, seed: int) -> None:
    found = _run(base, tmp_path, seed, 300)
    assert not found["wrong"], "\n".join(map(str, found["wrong"][:5]))
    assert sum(found["ends"].values()) == 300
    assert sum(n for end, n in found["ends"].items() if "refused" in end) > 230
    assert found["grown"] < GROWTH


@pytest.mark.parametrize("seed", [5, 6])
def test_mutations_of_every_kind_of_format(family: Path, tmp_path: Path, seed: int) -> None:
    found = _run(family, tmp_path, seed, 300)
    assert not found["wrong"], "\n".join(map(str, found["wrong"][:5]))
    assert sum(n for end, n in found["ends"].items() if "refused" in end) > 230
    assert found["grown"] < GROWTH
