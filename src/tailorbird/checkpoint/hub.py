"""Fetching a model from the Hugging Face Hub: safetensors and text files, never pickles or code."""

from __future__ import annotations

from pathlib import Path

from tailorbird.errors import ModelError, require

ALLOWED = ["*.safetensors", "*.json", "tokenizer.model", "*.jinja"]


def fetch(model: str, download: bool = True) -> Path:
    """Find `owner/name` in the Hub's own cache, or download it there where that is allowed.

    Returns:
        The folder of the snapshot.

    Raises:
        ModelError: no such model, no permission, no network, or a download that broke.
        MissingExtra: huggingface_hub is not installed.
    """
    hub = require("huggingface_hub", extra="hf")
    errors = require("huggingface_hub.errors", extra="hf")
    try:
        return Path(hub.snapshot_download(model, allow_patterns=ALLOWED, local_files_only=not download))
    except errors.GatedRepoError as cause:
        raise ModelError(
            f"the model {model} is gated",
            hint=f"accept its terms at huggingface.co/{model}, then run: hf auth login",
        ) from cause
    except errors.RepositoryNotFoundError as cause:
        raise ModelError(
            f"the Hub has no model {model}, or it is private",
            hint="check the spelling; for a private model run: hf auth login; for a folder check the path",
        ) from cause
    except errors.LocalEntryNotFoundError as cause:
        raise (_unreachable(model, cause) if download else _not_here(model)) from cause
    except Exception as cause:  # each transport library brings its own network errors
        raise _unreachable(model, cause) from cause


def _unreachable(model: str, cause: Exception) -> ModelError:
    return ModelError(
        f"{model} is no folder here and could not be fetched from the Hub: {type(cause).__name__}: {cause}",
        hint="check the network, or download the model elsewhere and give its folder",
    )


def _not_here(model: str) -> ModelError:
    return ModelError(f"{model} is not in the Hub's cache here", hint=f"fetch it: hf download {model}")
