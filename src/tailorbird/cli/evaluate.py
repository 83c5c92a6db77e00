"""``tailorbird evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailorbird.cli.options import Json, Loadable, Recipe
from tailorbird.cli.ranked import evaluated
from tailorbird.cli.session import say, session

if TYPE_CHECKING:
    from tailorbird.pipeline.quality import Opened


def command(
    context: typer.Context,
    model: Loadable,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="MODEL",
            show_default="as the recipe says",
            help="The original, or none.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Predictions to score; 0 for the whole text.")] = 4092,
    window: Annotated[
        int | None, typer.Option("--window", show_default="1024, or what the model allows", help="Tokens in a window.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", metavar="FILE", show_default="WikiText-2 raw test", help="What to predict.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="NAME|FILE", help="Multiple-choice task of lm-eval, or a .jsonl file."),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option("--candidates", metavar="FILE", help="Of a recommender: rank among these, not all items."),
    ] = None,
    draw: Annotated[int, typer.Option("--draw", min=0, help="Draw so many a case into that file first.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 0,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Measure perplexity, and the distance from the original: KL divergence and top-1 agreement. Of a recommender: the
    figures of its test."""
    from tailorbird.cli.progress import evaluation
    from tailorbird.pipeline.quality import evaluate, open_model

    this = session(context)
    if evaluated(model, candidates, draw, seed, this):
        return
    opened = open_model(model)
    original = _reference(opened, reference)
    with evaluation(f"evaluating {model}") as progress:
        found: dict[str, Any] = evaluate(
            opened, original, tokens=tokens or None, window=window, text=text, progress=progress
        ).to_json()
    if tasks:
        from tailorbird.runtime.load import load
        from tailorbird.tasks.choice import evaluate_choices

        # As perplexity: what the weights cost, without the rounding of activations.
        found["tasks"] = evaluate_choices(load(opened, activations="fp32"), tasks)
    if this.json:
        this.emit(found)
        return
    from tailorbird.cli.tables import quality_table

    this.show(quality_table(found))


def _reference(model: Opened, name: str | None) -> Opened | None:
    """The original: as named, or as an artifact's recipe names it where that can be opened and is the same model."""
    from tailorbird.errors import TailorbirdError
    from tailorbird.pipeline.quality import fits, open_model, source_of

    if name is not None:
        return None if name == "none" else open_model(name)
    source = source_of(model)
    if source is None:
        return None
    try:
        # The recipe may be somebody else's: it can name a model, but not make this machine fetch one.
        opened = open_model(source, download=False)
        fits(model, opened)
    except TailorbirdError as error:
        say(f"note: no comparison with the original: {error.message} (name it with --reference)")
        return None
    say(f"note: the original is {source}, as the artifact's recipe says")
    return opened
