"""What a model is worth: `evaluate` and `sample`, on artifacts and original models alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird import data
from tailorbird.anatomy import Model
from tailorbird.artifact import Artifact
from tailorbird.artifact.manifest import NAME as MANIFEST
from tailorbird.checkpoint import Checkpoint, open_checkpoint
from tailorbird.errors import ArtifactError, TailorbirdError, UsageError
from tailorbird.files import read_toml
from tailorbird.runtime.load import load
from tailorbird.tasks import language
from tailorbird.tasks.head import head_part
from tailorbird.tasks.text import Tokenizer, documents, evaluation_windows

Opened = Checkpoint | Artifact
TEXT_NAME = "WikiText-2 raw test"
TOKENS = 4092
WINDOW = 1024
PROMPT = "The most important thing about birds is that"
RECIPE = "recipe.toml"


@dataclass(frozen=True, kw_only=True)
class Quality(language.LanguageMetrics):
    """What evaluation found, and on what.

    Attributes:
        bos: every window starts with the beginning-of-text token.
        text: what it was measured on.
        model: the model, as named.
        reference: the original, as named; None without one.
    """

    bos: bool
    text: str
    model: str
    reference: str | None = None


def evaluate(
    source: str | Path | Opened,
    reference: str | Path | Opened | None = None,
    *,
    tokens: int | None = TOKENS,
    window: int | None = None,
    text: str | Path | None = None,
    progress: language.Progress | None = None,
) -> Quality:
    """Perplexity of a model on a text, and its distance from the original; one block in memory at a time.

    Args:
        source: the folder of an artifact, or what `compress` takes, or one of these opened.
        reference: the original, likewise.
        tokens: predictions to score, rounded up to whole windows; None for the whole text.
        window: tokens in a window; by default 1,024, or what the model can look at where that is less.
        text: a file, as for calibration; None for the raw test text of WikiText-2.
        progress: told what is being done, steps done and steps in all.

    Raises:
        ModelError, ArtifactError: a model can't be read, or has no tokenizer.
        DataError: the text can't be read or does not fill a window.
        UsageError: a window that can't be, or a reference of another vocabulary.
    """
    opened = open_model(source)
    original = None if reference is None else open_model(reference)
    tokenizer = Tokenizer.of(opened)
    words = data.read_text(data.WIKITEXT2_TEST) if text is None else "\n\n".join(documents(text))
    windows = evaluation_windows(tokenizer, words, tokens, _window(opened, window))
    found = language.evaluate(Model.open(opened), windows, Model.open(original) if original else None, progress)
    return Quality(
        **found.to_json(),
        bos=tokenizer.bos is not None,
        text=TEXT_NAME if text is None else str(text),
        model=opened.source,
        reference=original.source if original else None,
    )


def open_model(source: str | Path | Opened, *, download: bool = True) -> Opened:
    """An artifact, which is a folder with manifest.json, or an original model; `download` as in `open_checkpoint`."""
    if not isinstance(source, str | Path):
        return source
    folder = Path(source).expanduser()
    return Artifact.open(folder) if (folder / MANIFEST).is_file() else open_checkpoint(source, download=download)


def fits(model: Opened, original: Opened) -> None:
    """Make sure that two models can be compared.

    Raises:
        UsageError: their outputs have different sizes.
    """
    mine, theirs = (head_part(Model.open(one)).shape[0] for one in (model, original))
    if mine != theirs:
        raise UsageError(
            f"{model.source} has a vocabulary of {mine} entries, {original.source} one of {theirs}",
            hint="compare a model with the one it was made from",
        )


def source_of(model: Opened) -> str | None:
    """The original of an artifact, as its recipe.toml names it; None where it names none."""
    path = model.folder / RECIPE
    if not isinstance(model, Artifact) or not path.is_file():
        return None
    value = read_toml(path, error=ArtifactError).get("model")
    return value if isinstance(value, str) and value else None


def sample(source: str | Path | Opened, prompt: str = PROMPT, tokens: int = 24) -> str:
    """How a model continues a prompt, always taking the most likely token.

    Weights are unpacked for the time of it where memory allows; an original that does not fit is refused.

    Raises:
        UsageError: the original would not fit into the free memory.
    """
    opened = open_model(source)
    size = 4 * sum(part.numel for part in Model.open(opened).parts)
    roomy = size < 0.5 * free_memory()
    if isinstance(opened, Checkpoint) and not roomy:
        raise UsageError(
            f"{opened.source} takes {size} bytes to run, too much for the free memory", hint="run it elsewhere"
        )
    return "".join(load(opened, dense=roomy).generate(prompt, tokens))


def attempt(action: Callable[[], Any], notes: list[str]) -> Any:
    """The result of something that is good to have; an error becomes a note and the result None."""
    try:
        return action()
    except TailorbirdError as error:
        notes.append(error.message)
        return None


def free_memory() -> float:
    """Bytes of memory that can be had without swapping; infinite where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return float("inf")


def _window(model: Opened, window: int | None) -> int:
    most = model.config.get("max_position_embeddings")
    most = most if type(most) is int and most > 1 else None
    if window is None:
        return min(WINDOW, most or WINDOW)
    if most is not None and window > most:
        raise UsageError(
            f"a window of {window} tokens is more than the {most} that {model.source} can look at",
            hint=f"--window {most}",
        )
    return window
