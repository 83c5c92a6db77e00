"""``tailorbird run``."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import typer

from tailorbird.cli.options import Json, Loadable, Recipe
from tailorbird.cli.session import say, session

Activations = Literal["int8", "fp32"]
Cached = Literal["bf16", "int8"]


def command(
    context: typer.Context,
    model: Loadable,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens to add.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the most likely token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Draw from the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Draw from the tokens that make up p.")] = None,
    min_p: Annotated[
        float | None, typer.Option("--min-p", help="Draw from tokens at least p times as likely as the first.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text to end at; may be repeated.")] = None,
    activations: Annotated[Activations, typer.Option("--activations", help="What packed weights meet.")] = "int8",
    cache: Annotated[Cached, typer.Option("--cache", help="How keys and values are kept.")] = "bf16",
    threads: Annotated[int, typer.Option("--threads", help="Of the kernels; 0 for all processors.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Unpack the weights: torch computes.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Continue a text. It streams to standard output; timing goes to standard error."""
    from tailorbird.kernels.native import set_threads
    from tailorbird.runtime.completion import Sampling
    from tailorbird.runtime.load import load

    this = session(context)
    this.interrupted = lambda: "stopped writing"
    start = time.perf_counter()
    sampling = Sampling(max_tokens, temperature, top_k, top_p, min_p, seed, stop or ())
    set_threads(threads)
    loaded = load(model, dense=dense, activations=activations, cache=cache)
    completion = loaded.complete(loaded.tokenizer.prompt(prompt), sampling)
    ready = time.perf_counter()
    text = ""
    for piece in completion:
        text += piece
        if not this.json:
            print(this.printable(piece), end="", file=this.stdout, flush=True)
    took = time.perf_counter() - ready
    if this.json:
        facts = {"tokens": completion.tokens, "finish": completion.finish, "bytes": loaded.nbytes}
        seconds = {"load": ready - start, "generate": took}
        this.emit({"prompt": prompt, "text": text, "seconds": seconds} | facts)
    else:
        print(file=this.stdout)
    rate = completion.tokens / max(took, 1e-9)
    say(f"loaded in {ready - start:.1f} s; {completion.tokens} tokens in {took:.1f} s ({rate:.1f} a second)")
