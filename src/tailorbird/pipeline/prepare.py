"""Before any weight is touched: the model is laid out, the method chosen, and every byte of the artifact planned."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tailorbird.allocate.finer import LEVELS, finer, topped
from tailorbird.allocate.rules import FREE, Rules
from tailorbird.allocate.uniform import outside, uniform
from tailorbird.anatomy import Model, Part
from tailorbird.anatomy.generic import GENERIC
from tailorbird.artifact import targets
from tailorbird.artifact.layout import QUANTIZED, Segment, narrowed, planned_bytes, segments
from tailorbird.artifact.reader import TOKENIZER
from tailorbird.budget import Budget
from tailorbird.checkpoint import Checkpoint, open_checkpoint
from tailorbird.errors import BudgetError, ModelError, UsageError
from tailorbird.files import json_bytes, read_json
from tailorbird.formats import PlaneSpec, Spec, TrellisSpec
from tailorbird.formats.spec import MAX_BITS
from tailorbird.methods import Method, find
from tailorbird.pipeline import recommender
from tailorbird.pipeline.asked import allocator, check_budget, costs
from tailorbird.plan import Plan
from tailorbird.runtime.costs import cache_bytes
from tailorbird.runtime.decoder import Cached
from tailorbird.runtime.profile import Profile
from tailorbird.tasks.tokenizer import MAX_BYTES as TOKENIZER_BYTES
from tailorbird.transform.rotate import rotated

DEFAULT_BUDGET = "4.5bits"
# What classes of rows save an embedding or a head, in bits, at the same loss or less.
LEAD = 2
SMALL_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# A line of the manifest: name, size and digest of a file, or name and digest of a weight.
_MANIFEST_LINE = 110
# More columns than any weight has: one group a row.
ONE_GROUP = 1_000_000


@dataclass(frozen=True)
class Prepared:
    """A job that is decided but not begun.

    Attributes:
        model: the model, laid out.
        checkpoint: where it comes from; None for a module from memory.
        method: the method with its options.
        budget: what was asked.
        plan: what was decided.
        pieces: what is fitted and written together, in order.
        kept: tensors stored as they are, ready to write.
        files: content of the artifact's other files by name.
        given: the plan was given, not allocated.
        target: name of the runtime the plan is made for; empty for our own.
        rules: what its formats obey therefore.
        context: tokens whose keys and values a budget in bytes counts too.
        cache: how these are kept.
        allocate: how bits are shared out: ``uniform``, ``measured`` or ``ohq``.
        profile: measured costs of the device that a budget in milliseconds names, or OHQ weighs.
    """

    model: Model
    checkpoint: Checkpoint | None
    method: Method
    budget: Budget
    plan: Plan
    pieces: list[Segment]
    kept: Mapping[str, Tensor]
    files: Mapping[str, bytes]
    given: bool = False
    target: str = ""
    rules: Rules = FREE
    context: int = 0
    cache: Cached = "bf16"
    allocate: str = "uniform"
    profile: Profile | None = None

    @cached_property
    def cached(self) -> int:
        """Bytes of the keys and values that a budget in bytes counts too."""
        return self.kept_as(self.cache)

    def kept_as(self, cache: Cached) -> int:
        """Bytes of the keys and values of the context."""
        return cache_bytes(self.model.config, self.context, cache) if self.context else 0

    @property
    def notes(self) -> list[str]:
        """What was asked for and changes nothing."""
        idle = self.context and self.budget.nbytes is None
        return ["--context counts in a budget in bytes, and there is none"] if idle else []

    @property
    def undecided(self) -> bool:
        """The plan is only the uniform one: bits are still to be shared out by what they are worth."""
        return self.allocate != "uniform" and not self.given

    def spec(self, part: Part, bits: int) -> Spec:
        """The format of a part at a number of bits, under the rules; above eight, by two terms."""
        own = self.method.own_format and not outside(part)
        found = finer(self.method.spec(part, min(bits, MAX_BITS)), 0 if own else bits - MAX_BITS)
        return self.method.fitting(part, self.rules.chosen(part, found))

    @property
    def levels(self) -> int:
        """Most bits of a part, counting formats above eight bits; these not where time counts, or a target."""
        return MAX_BITS if self.target or self.profile is not None else LEVELS

    def topped(self, specs: Mapping[str, Spec], room: int) -> Mapping[str, Spec]:
        """The same formats, or better ones than eight bits everywhere where there is room for that."""
        return topped(specs, self.model.parts, self.spec, size, room) if self.levels > MAX_BITS else specs

    @property
    def by_rows(self) -> bool:
        """Rows of embedding and head will have bits by what they are worth."""
        return bool(self.method.rows and self.method.needs and not self.target and self.checkpoint)

    @property
    def lead(self) -> int:
        """Bits that embedding and head can do without therefore."""
        return LEAD if self.by_rows else 0

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all safetensors files."""
        return planned_bytes(self.pieces, self.plan.specs, self.kept)

    @property
    def other_bytes(self) -> int:
        """Bytes of the other files the runtime loads, at most."""
        return other_bytes(self.plan, self.pieces, self.files)

    @property
    def nbytes(self) -> int:
        """Bytes of all files the runtime loads, at most."""
        return self.weight_bytes + self.other_bytes

    @property
    def bits(self) -> float:
        """Stored bits a weight, at most: safetensors files and the plan."""
        return 8 * (self.weight_bytes + plan_bytes(self.plan)) / self.plan.numel

    def planned(self, specs: Mapping[str, Spec]) -> Prepared:
        """The same job with these formats."""
        return replace(self, plan=Plan(self.method.name, self.method.options(), self.model.parts, specs))

    def check(self, nbytes: int, bits: float, what: str, milliseconds: float | None = None) -> None:
        """Raise BudgetError where files of so many bytes, so many bits a weight, or so many milliseconds a token exceed
        the budget."""
        check_budget(self.budget, nbytes + self.cached, bits, what, milliseconds)


def prepare(
    source: str | Path | nn.Module,
    method: str = "gptq",
    budget: str | Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    target: str | None = None,
    allocate: str | None = None,
    context: int = 0,
    cache: Cached = "bf16",
    profile: str | Path | None = None,
) -> Prepared:
    """Lay out a model and decide the format of every part.

    Args:
        source: a folder, a GGUF file, a Hub id, ``demo:gemma-270m``, or a torch module of linear layers.
        method: name of a registered method.
        budget: such as ``3bits`` or ``120MB`` or several; without one and without a plan, 4.5 bits.
        options: options of the method.
        plan: an edited plan to apply instead of allocating; a budget beside it must hold.
        target: name of a runtime that is to read the artifact's export without any change.
        allocate: one of `tailorbird.pipeline.asked.ALLOCATORS`; None for ``measured`` where milliseconds are asked for,
            else ``uniform``. The plan is uniform all the same: the others need calibration data, see
            `tailorbird.pipeline.allocation`.
        context: tokens whose keys and values a budget in bytes counts.
        cache: how these are kept.
        profile: measured costs that ``ohq`` weighs; None for those a budget in milliseconds names, if any.

    Raises:
        ModelError: the model can't be read.
        BudgetError: the budget can't be kept; says what is the smallest possible.
        UsageError: the plan does not belong to the model, or the target can't carry it.
    """
    source = recommender.module(source) if recommender.is_folder(source) else source
    checkpoint, model = _opened(source)
    if plan is not None:
        method, options = plan.method, dict(plan.options) | dict(options or {})
    chosen = find(method).from_options(options or {})
    model = turned(model, chosen)
    asked = Budget.parse(budget if budget is not None else ([] if plan else DEFAULT_BUDGET))
    allocate = allocator(allocate, asked, model, plan is not None)
    device = costs(profile, asked, allocate)
    pieces = segments(model)
    kept = kept_of(model, pieces)
    files = _files(checkpoint, model) if checkpoint else recommender.files_of(source)
    rules = targets.find(target).rules(model.parts) if target else FREE
    begun = Plan(method, chosen.options(), model.parts, _given(plan, model, chosen) if plan else {})
    draft = Prepared(
        model, checkpoint, chosen, asked, begun, pieces, kept, files, plan is not None, target or "", rules, context,
        cache, allocate, device,
    )  # fmt: skip
    if plan is not None:
        _check_rules(draft)
    ready = draft if plan else within(draft, lambda room: draft.topped(_uniform(draft, room), room))
    ready.check(ready.nbytes, ready.bits, "the plan takes")
    return ready


def _uniform(job: Prepared, room: int) -> Mapping[str, Spec]:
    least = job.method.least_ends if job.lead or job.target else 0
    return uniform(job.model.parts, job.spec, size, room, job.rules, job.lead, least)


def fitted_first(piece: Segment) -> bool:
    """What of a tied embedding is fitted before the blocks, where the method is calibrated."""
    return any(part.role == "embedding" and part.tied for part in piece.parts)


def size(part: Part, spec: Spec) -> int:
    """Bytes of a part in a format."""
    return spec.plan(part.shape[0]).nbytes


def plan_bytes(plan: Plan) -> int:
    """Bytes of plan.json at most: as if every part had bits of its own for every group."""
    plain = [_longest(spec) for spec in plan.specs.values()]
    extra = sum(
        len(json.dumps(form)) - len(json.dumps(spec.to_json()))
        for form, spec in zip(plain, plan.specs.values(), strict=True)
    )
    return len(json_bytes(plan.to_json())) + max(0, extra)


def _longest(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, TrellisSpec):
        return spec.to_json() | {"half_bits": "0" * len(spec.halves)}
    return spec.to_json() | ({"bits": "0" * len(spec.bits)} if isinstance(spec, PlaneSpec) else {})


def other_bytes(plan: Plan, pieces: list[Segment], files: Mapping[str, bytes]) -> int:
    """Bytes of plan, manifest and the small files, at most."""
    names = [*files, "plan.json", *(piece.file for piece in pieces), *(part.name for part in plan.parts)]
    manifest = 256 + sum(len(name) + _MANIFEST_LINE for name in names)
    return sum(len(data) for data in files.values()) + plan_bytes(plan) + manifest


def within(job: Prepared, choose: Callable[[int], Mapping[str, Spec]]) -> Prepared:
    """A job planned to its budget in bits and bytes.

    Args:
        job: whose budget, method and rules hold.
        choose: formats by part name whose packed weights take at most so many bytes together.

    Raises:
        BudgetError: even one bit everywhere is too large; says what the smallest possible is.
    """
    ones = job.planned({part.name: job.spec(part, 1) for part in job.model.parts})
    headers, limit = ones.weight_bytes - ones.plan.code_bytes, _limit(ones)
    if ones.weight_bytes > limit:
        raise _too_small(job, ones)
    # Numbers in the headers grow with the parts they describe, by a few digits for every file; where a method has
    # another format for more bits, that may have more arrays; and a plan of formats above eight bits is longer.
    slack, more = 0, 64 * len(job.pieces)
    while True:
        room = max(ones.plan.code_bytes, limit - headers - slack)
        found = job.planned(choose(room))
        over = found.weight_bytes - _limit(found)
        if over <= 0:
            return found
        if room == ones.plan.code_bytes:
            return ones
        # A little less room may well give the same plan, as one part of it takes more than that.
        slack, more = slack + max(more, over), 2 * more


def _limit(job: Prepared) -> int:
    """Bytes that the weights may take beside the plan and the other files."""
    limit = job.budget.weight_bytes(job.model.numel, job.other_bytes + job.cached)
    bits = job.budget.bits
    return limit if bits is None else min(limit, int(bits * job.model.numel / 8) - plan_bytes(job.plan))


def _too_small(job: Prepared, ones: Prepared) -> BudgetError:
    """What to say where even one bit everywhere is too large."""
    coarse = replace(job, method=replace(job.method, group_size=ONE_GROUP))
    least = coarse.planned({part.name: coarse.spec(part, 1) for part in job.model.parts})
    rows = f"{least.nbytes} bytes ({_up(least.bits)} bits a weight) with one group a row (group_size={ONE_GROUP})"
    beside = f", and {job.cached} of keys and values" if job.cached else ""
    hints = ["raise the budget", *([rows] if least.nbytes < ones.nbytes else [])]
    if (saved := job.cached - job.kept_as("int8")) > 0 and job.budget.nbytes is not None:
        hints.append(f"--cache int8 keeps keys and values in {saved} bytes less")
    return BudgetError(
        f"the smallest possible with these options is {ones.nbytes} bytes ({_up(ones.bits)} bits a weight){beside}",
        hint="; ".join(hints),
    )


def _check_rules(job: Prepared) -> None:
    specs = job.plan.specs
    for part in job.plan.parts:
        near = job.rules.carried(part, specs[part.name])
        if near != specs[part.name]:
            raise UsageError(
                f"target {job.target!r} can't carry the plan's format of {part.name}: {specs[part.name].to_json()}",
                hint=f"the nearest it can carry is {near.to_json()}",
            )
    for group in job.rules.ties:
        if len({specs[name] for name in group}) > 1:
            raise UsageError(
                f"target {job.target!r} needs one format for {', '.join(group)}", hint="give them the same in the plan"
            )


def _up(bits: float) -> float:
    """Rounded up, so that a budget of what a message says can be kept."""
    return math.ceil(bits * 1000) / 1000


def _given(plan: Plan, model: Model, method: Method) -> dict[str, Spec]:
    own = {part.name: part.shape for part in model.parts}
    given = {part.name: part.shape for part in plan.parts}
    if own != given:
        odd = sorted(set(own.items()) ^ set(given.items()))[0][0]
        raise UsageError(
            f"the plan is not for {model.source}: part {odd!r} differs", hint="make one with --dry-run --json"
        )
    return {part.name: method.fitting(part, plan.specs[part.name]) for part in plan.parts}


def kept_of(model: Model, pieces: Iterable[Segment]) -> dict[str, Tensor]:
    """The tensors stored as they are, ready to write."""
    return {name: narrowed(model.read(name)) for piece in pieces for name in piece.kept}


def turned(model: Model, method: Method) -> Model:
    """The model as the method wants it turned; a learned rotation begins at the random one, and is learned later.

    Raises:
        UsageError: the method is to distil or to guide what is no language model, or to propagate errors in an unknown
            one.
    """
    for option, what in (("distill", "distilled"), ("guided", "guided")):
        if getattr(method, option) and not (model.anatomy.head and model.blocks):
            raise UsageError(f"{model.source} can't be {what}", hint=f"only language models can; leave {option} out")
    if method.propagate and not (model.anatomy.wiring and model.anatomy.wiring.readers):
        raise UsageError(
            f"errors can't be propagated in {model.source}",
            hint="nothing is known about what its layers read; leave propagate out",
        )
    if method.rotate == "none":
        return model
    return rotated(model, method.rotate_residual, method.rotate_seed)


def _files(checkpoint: Checkpoint, model: Model) -> dict[str, bytes]:
    """Configuration and tokenizer as the artifact keeps them."""
    files = {"config.json": json_bytes(dict(model.config) | QUANTIZED)}
    if (path := checkpoint.tokenizer_file) is not None:
        text = json.dumps(
            read_json(path, limit=TOKENIZER_BYTES, error=ModelError), ensure_ascii=False, separators=(",", ":")
        )
        files[TOKENIZER] = lzma.compress(text.encode(), preset=1)
    small = {name: checkpoint.folder / name for name in SMALL_FILES}
    return files | {name: path.read_bytes() for name, path in small.items() if path.is_file()}


def _opened(source: str | Path | nn.Module) -> tuple[Checkpoint | None, Model]:
    if isinstance(source, nn.Module):
        return None, Model.wrap(source, getattr(source, "anatomy", GENERIC))
    checkpoint = open_checkpoint(source)
    return checkpoint, Model.open(checkpoint)
