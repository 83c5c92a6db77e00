"""``tailorbird bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli.options import Json, Loadable, Recipe
from tailorbird.cli.session import session


def command(
    context: typer.Context,
    model: Loadable,
    decode_tokens: Annotated[int, typer.Option("--decode-tokens", help="Tokens to decode in a run.")] = 128,
    prefill_tokens: Annotated[int, typer.Option("--prefill-tokens", help="Tokens of the prompt.")] = 512,
    runs: Annotated[int, typer.Option("--runs", help="The median of so many runs counts.")] = 3,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token, else drawn.")] = 0.0,
    tokens_before: Annotated[int, typer.Option("--context", help="Tokens of text that decoding starts from.")] = 16,
    threads: Annotated[int, typer.Option("--threads", help="Of the kernels; 0 for all processors.")] = 0,
    dense: Annotated[bool, typer.Option("--dense", help="Unpack the weights.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Measure decoding and prefill, beside the wall that reading the weights puts up."""
    from tailorbird.kernels.native import set_threads
    from tailorbird.runtime.load import load
    from tailorbird.runtime.speed import bench

    this = session(context)
    set_threads(threads)
    found = bench(load(model, dense=dense), decode_tokens, prefill_tokens, runs, temperature, tokens_before)
    if this.json:
        this.emit(found.to_json())
        return
    this.line(f"decode  {found.decode_tokens_per_s:8.1f} tokens a second ({found.kernels}, {found.threads} threads)")
    this.line(f"prefill {found.prefill_tokens_per_s:8.1f} tokens a second ({found.prefill_tokens} tokens)")
    this.line(f"weights {found.bytes_per_token:,} bytes a token")
    if found.wall_tokens_per_s and found.read_bytes_per_s and found.of_wall:
        wall = f"{found.wall_tokens_per_s:8.1f} tokens a second at {found.read_bytes_per_s / 1e9:.1f} GB/s"
        this.line(f"wall    {wall}: decoding is at {found.of_wall:.0%} of it")
    if found.outside_products is not None:
        this.line(f"outside products with packed weights: {found.outside_products:.1%} of a token")
