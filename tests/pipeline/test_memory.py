"""Memory goes back to the machine, and the checkpoint is read a little at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.pipeline import compress, memory

PAGES = Path("/proc/self/statm")


def _resident() -> int:
    return int(PAGES.read_text().split()[1]) * 4096


@pytest.mark.skipif(memory._glibc() is None or not PAGES.exists(), reason="only glibc keeps freed memory")
def test_freed_memory_goes_back() -> None:
    memory.keep_little()
    memory.give_back()
    before = _resident()
    blocks = [torch.ones(2**18) for _ in range(128)]
    assert _resident() - before > 100 * 2**20
    del blocks
    memory.give_back()
    assert _resident() - before < 16 * 2**20


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    memory.keep_little()
    memory.give_back()


@pytest.mark.usefixtures("here")
def test_weights_in_pieces_are_the_same(model_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tailorbird.anatomy import model

    plain = compress(model_of("untied"), tmp_path / "a", method="rtn", budget="4bits").artifact.digest
    monkeypatch.setattr(model, "CHUNK", 1000)  # weights come in many pieces, and nothing changes
    assert compress(model_of("untied"), tmp_path / "b", method="rtn", budget="4bits").artifact.digest == plain
