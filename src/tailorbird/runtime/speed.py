"""How fast a model runs here, beside the wall that memory puts up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from tailorbird import data
from tailorbird.errors import UsageError
from tailorbird.kernels import native
from tailorbird.plan import Plan
from tailorbird.runtime.completion import Sampling
from tailorbird.runtime.language_model import LanguageModel
from tailorbird.runtime.sampling import Chance, choose

START = 16
"""Tokens of text that decoding starts from, where nothing else is said."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        decode_tokens_per_s: tokens a second one after the other, each chosen at `temperature`; median of runs.
        prefill_tokens_per_s: tokens of a prompt a second; median of runs.
        bytes_per_token: stored bytes of all weights that a decoded token reads, embedding rows aside.
        read_bytes_per_s: what this machine reads from memory, measured before and after, the better of both.
        wall_tokens_per_s: read_bytes_per_s / bytes_per_token; None without native kernels to measure with.
        of_wall: decode_tokens_per_s / wall_tokens_per_s.
        outside_products: share of a decoded token's time that is not spent on products with packed weights; None
            where torch runs the model.
        decode_tokens, prefill_tokens, runs: how much was measured.
        threads: of the kernels.
        kernels: the variant, or ``torch``.
        temperature: at which tokens were chosen; 0: the most likely one each time.
        context: tokens of text before the first one decoded.
    """

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    bytes_per_token: int
    read_bytes_per_s: float | None
    wall_tokens_per_s: float | None
    of_wall: float | None
    outside_products: float | None
    decode_tokens: int
    prefill_tokens: int
    runs: int
    threads: int
    kernels: str
    temperature: float = 0.0
    context: int = START

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def bench(
    model: LanguageModel,
    decode_tokens: int = 128,
    prefill_tokens: int = 512,
    runs: int = 3,
    temperature: float = 0.0,
    context: int = START,
) -> Speed:
    """Measure decoding and prefill on the raw test text of WikiText-2.

    Args:
        model: loaded, with a tokenizer.
        decode_tokens: tokens to decode in a run.
        prefill_tokens: tokens of the prompt in a run.
        runs: how often; one more warms up.
        temperature: at which tokens are chosen, as in `LanguageModel.generate`.
        context: tokens of text that decoding starts from.

    Raises:
        UsageError: counts that can't be, or more tokens than the model can look at.
    """
    Sampling(temperature=temperature)
    longest = model.max_length
    if min(decode_tokens, prefill_tokens, runs, context) < 1:
        raise UsageError(
            "decode tokens, prefill tokens, runs and context are 1 or more", hint="see `tailorbird bench --help`"
        )
    if longest is not None and max(context + decode_tokens, prefill_tokens) > longest:
        raise UsageError(
            f"the model looks at {longest} tokens at most", hint="lower --context, --prefill-tokens or --decode-tokens"
        )
    wanted = max(prefill_tokens, context)
    ids = model.tokenizer.encode(data.read_text(data.WIKITEXT2_TEST)[: 40 * wanted])
    ids = (ids * -(-wanted // len(ids)))[:wanted]
    module = native.extension()
    before = native.read_bandwidth() if module else None
    prefill = [_prefill(model, ids[:prefill_tokens]) for _ in range(runs + 1)][1:]
    decode = [_decode(model, ids[:context], decode_tokens, temperature) for _ in range(runs + 1)][1:]
    read = max(before, native.read_bandwidth()) if before else None
    seconds, outside = median(took for took, _ in decode), median(share for _, share in decode)
    weights = bytes_per_token(model)
    wall = read / weights if read else None
    return Speed(
        decode_tokens_per_s=decode_tokens / seconds,
        prefill_tokens_per_s=prefill_tokens / median(prefill),
        bytes_per_token=weights,
        read_bytes_per_s=read,
        wall_tokens_per_s=wall,
        of_wall=decode_tokens / seconds / wall if wall else None,
        outside_products=outside if model.decoder else None,
        decode_tokens=decode_tokens,
        prefill_tokens=prefill_tokens,
        runs=runs,
        threads=module.threads() if module else torch.get_num_threads(),
        kernels=module.variant() if module else "torch",
        temperature=temperature,
        context=context,
    )


def milliseconds(model: LanguageModel, tokens: int = 64, runs: int = 25) -> float:
    """Milliseconds of one decoded token; the median of runs, one more of which warms up. As many as last for seconds:
    where a processor is shared its speed wavers by several per cent from one second to the next."""
    return median([once(model, tokens) for _ in range(runs + 1)][1:])


def once(model: LanguageModel, tokens: int) -> float:
    """Milliseconds of one decoded token, the mean of so many, this time."""
    return 1e3 / tokens * _decode(model, [1] * START, tokens)[0]


def bytes_per_token(model: LanguageModel) -> int:
    """Stored bytes of all weights that one decoded token reads: all but an embedding that is no head as well."""
    plan = getattr(model.source, "plan", None)
    if not isinstance(plan, Plan) or model.decoder is None:
        return model.nbytes
    read = [part for part in plan.parts if part.role != "embedding" or part.tied]
    return sum(plan.part_bytes(part) for part in read)


def _prefill(model: LanguageModel, ids: list[int]) -> float:
    return _timed(lambda: next(model.steps(ids, 1)))


def _decode(model: LanguageModel, ids: list[int], tokens: int, temperature: float = 0.0) -> tuple[float, float]:
    """Seconds of `tokens` tokens, and the share of them outside products; the prompt is not counted."""
    steps = model.steps(ids, tokens + 1)
    chance = Chance(0)
    token = choose(next(steps), chance, temperature)

    def run(token: int = token) -> None:
        for _ in range(tokens):
            steps.feed(token)
            token = choose(next(steps), chance, temperature)

    before = model.decoder.product_seconds if model.decoder else 0.0
    took = _timed(run)
    products = model.decoder.product_seconds - before if model.decoder else 0.0
    return took, 1 - products / took


def _timed(work: Callable[[], Any]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start
