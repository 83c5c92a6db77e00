"""Fetching from the Hub, without a network: what is asked for, and what errors become."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from tailorbird.checkpoint import open_checkpoint
from tailorbird.errors import ModelError


def test_asks_for_safe_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(model: str, **options: Any) -> str:
        asked.update(options, model=model)
        (tmp_path / "config.json").write_text("{}")
        save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoint = open_checkpoint("owner/name")
    assert checkpoint.source == "owner/name" and checkpoint.folder == tmp_path
    assert asked["model"] == "owner/name"
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["allow_patterns"])


RESPONSE = Mock(status_code=404, headers={})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.GatedRepoError("x", response=RESPONSE), "is gated"),
        (errors.RepositoryNotFoundError("x", response=RESPONSE), "has no model owner/name"),
        (errors.LocalEntryNotFoundError("x"), "could not be fetched"),
        (OSError("no route to host"), "no route to host"),
    ],
)
def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    def fail(*args: Any, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=words) as caught:
        open_checkpoint("owner/name")
    assert caught.value.hint


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        open_checkpoint("tailorbird-tests/no-such-model")


def test_a_model_that_may_not_be_downloaded_is_only_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*args: Any, **options: Any) -> str:
        assert options["local_files_only"]
        raise errors.LocalEntryNotFoundError("x")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", look)
    with pytest.raises(ModelError, match="not in the Hub's cache"):
        open_checkpoint("owner/name", download=False)
