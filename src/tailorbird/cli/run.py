"""``tailorbird run``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from tailorbird.cli.options import Json, Loadable, Recipe
from tailorbird.cli.session import say, session


def command(
    context: typer.Context,
    model: Loadable,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens to add.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the most likely token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Draw from the tokens that make up p.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text to end at; may be repeated.")] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Unpack the weights: more memory, faster.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Continue a text. It streams to standard output; timing goes to standard error."""
    from tailorbird.runtime.load import load

    this = session(context)
    this.interrupted = lambda: "stopped writing"
    start = time.perf_counter()
    loaded = load(model, dense=dense)
    pieces = loaded.generate(
        prompt, max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop or ()
    )
    ready = time.perf_counter()
    text = ""
    for piece in pieces:
        text += piece
        if not this.json:
            print(this.printable(piece), end="", file=this.stdout, flush=True)
    took = time.perf_counter() - ready
    tokens = len(loaded.tokenizer.encode(text))
    if this.json:
        seconds = {"load": ready - start, "generate": took}
        this.emit({"prompt": prompt, "text": text, "tokens": tokens, "seconds": seconds, "bytes": loaded.nbytes})
    else:
        print(file=this.stdout)
    say(f"loaded in {ready - start:.1f} s; {tokens} tokens in {took:.1f} s ({tokens / max(took, 1e-9):.1f} a second)")
