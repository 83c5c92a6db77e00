"""Before any weight is touched: the model is laid out, the method chosen, and every byte of the artifact planned."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tailorbird.allocate.rules import FREE, Rules
from tailorbird.allocate.uniform import uniform
from tailorbird.anatomy import Model, Part
from tailorbird.artifact import targets
from tailorbird.artifact.layout import QUANTIZED, Segment, narrowed, planned_bytes, segments
from tailorbird.artifact.reader import TOKENIZER
from tailorbird.budget import Budget
from tailorbird.checkpoint import Checkpoint, open_checkpoint
from tailorbird.errors import BudgetError, ModelError, UsageError
from tailorbird.files import json_bytes, read_json
from tailorbird.formats import PlaneSpec, Spec
from tailorbird.methods import Method, find
from tailorbird.plan import Plan
from tailorbird.tasks.tokenizer import MAX_BYTES as TOKENIZER_BYTES

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

    def spec(self, part: Part, bits: int) -> Spec:
        """The format of a part at a number of bits, under the rules."""
        return self.method.fitting(part, self.rules.carried(part, self.method.spec(part, bits)))

    @property
    def lead(self) -> int:
        """Bits that embedding and head can do without, because their rows will have bits by what they are worth."""
        return LEAD if self.method.rows and self.method.needs and not self.target and self.checkpoint else 0

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


def prepare(
    source: str | Path | nn.Module,
    method: str = "gptq",
    budget: str | Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    plan: Plan | None = None,
    target: str | None = None,
) -> Prepared:
    """Lay out a model and decide the format of every part.

    Args:
        source: a folder, a GGUF file, a Hub id, ``demo:gemma-270m``, or a torch module of linear layers.
        method: name of a registered method.
        budget: such as ``3bits`` or ``120MB`` or several; without one and without a plan, 4.5 bits.
        options: options of the method.
        plan: an edited plan to apply instead of allocating; a budget beside it must hold.
        target: name of a runtime that is to read the artifact's export without any change.

    Raises:
        ModelError: the model can't be read.
        BudgetError: the budget can't be kept; says what is the smallest possible.
        UsageError: the plan does not belong to the model, or the target can't carry it.
    """
    checkpoint = None if isinstance(source, nn.Module) else open_checkpoint(source)
    model = Model.wrap(source) if isinstance(source, nn.Module) else Model.open(_some(checkpoint))
    if plan is not None:
        method, options = plan.method, dict(plan.options) | dict(options or {})
    chosen = find(method).from_options(options or {})
    asked = Budget.parse(budget if budget is not None else ([] if plan else DEFAULT_BUDGET))
    pieces = segments(model)
    kept = {name: narrowed(model.read(name)) for piece in pieces for name in piece.kept}
    files = _files(checkpoint)
    rules = targets.find(target).rules(model.parts) if target else FREE
    begun = Plan(method, chosen.options(), model.parts, _given(plan, model, chosen) if plan else {})
    draft = Prepared(
        model, checkpoint, chosen, asked, begun, pieces, kept, files, plan is not None, target or "", rules
    )
    if plan is not None:
        _check_rules(draft)
    ready = draft if plan is not None else replace(draft, plan=_allocate(draft))
    check_budget(asked, ready.nbytes, ready.bits, "the plan takes")
    return ready


def check_budget(budget: Budget, nbytes: int, bits: float, what: str) -> None:
    """Raise BudgetError where bytes or bits exceed the budget."""
    if budget.nbytes is not None and nbytes > budget.nbytes:
        raise BudgetError(
            f"{what} {nbytes} bytes, the budget is {budget.nbytes}",
            hint="lower some bits, or raise the budget",
        )
    if budget.bits is not None and bits > float(budget.bits):
        raise BudgetError(
            f"{what} {bits:.4f} bits, the budget is {float(budget.bits)}", hint="lower some bits, or raise it"
        )


def plan_bytes(plan: Plan) -> int:
    """Bytes of plan.json at most: as if every part had bits of its own for every group."""
    plain = [_longest(spec) for spec in plan.specs.values()]
    extra = sum(
        len(json.dumps(form)) - len(json.dumps(spec.to_json()))
        for form, spec in zip(plain, plan.specs.values(), strict=True)
    )
    return len(json_bytes(plan.to_json())) + max(0, extra)


def _longest(spec: Spec) -> dict[str, Any]:
    return spec.to_json() | ({"bits": "0" * len(spec.bits)} if isinstance(spec, PlaneSpec) else {})


def other_bytes(plan: Plan, pieces: list[Segment], files: Mapping[str, bytes]) -> int:
    """Bytes of plan, manifest and the small files, at most."""
    names = [*files, "plan.json", *(piece.file for piece in pieces), *(part.name for part in plan.parts)]
    manifest = 256 + sum(len(name) + _MANIFEST_LINE for name in names)
    return sum(len(data) for data in files.values()) + plan_bytes(plan) + manifest


def _allocate(job: Prepared) -> Plan:
    """Uniform bits; the limit shrinks by what headers and the plan turn out to take."""
    budget, parts = job.budget, job.model.parts

    def cost(part: Part, spec: Spec) -> int:
        return spec.plan(part.shape[0]).nbytes

    def draft(specs: Mapping[str, Spec], by: Method = job.method) -> Prepared:
        return replace(job, method=by, plan=Plan(by.name, by.options(), parts, specs))

    ones = draft({part.name: job.spec(part, 1) for part in parts})
    headers = ones.weight_bytes - ones.plan.code_bytes
    limit = budget.weight_bytes(job.model.numel, ones.other_bytes)
    if budget.bits is not None:
        limit = min(limit, int(budget.bits * job.model.numel / 8) - plan_bytes(ones.plan))
    if ones.weight_bytes > limit:
        coarse = replace(job, method=replace(job.method, group_size=ONE_GROUP))
        least = draft({part.name: coarse.spec(part, 1) for part in parts}, coarse.method)
        rows = f"{least.nbytes} bytes ({_up(least.bits)} bits a weight) with one group a row (group_size={ONE_GROUP})"
        raise BudgetError(
            f"the smallest possible with these options is {ones.nbytes} bytes ({_up(ones.bits)} bits a weight)",
            hint=f"raise the budget; {rows}" if least.nbytes < ones.nbytes else "raise the budget",
        )
    # Numbers in the headers grow with the parts they describe, by a few digits for every file.
    for slack in (0, 64 * len(job.pieces)):
        room = max(ones.plan.code_bytes, limit - headers - slack)
        found = draft(uniform(parts, job.spec, cost, room, job.rules, job.lead))
        if found.weight_bytes <= limit:
            return found.plan
    return ones.plan


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


def _files(checkpoint: Checkpoint | None) -> dict[str, bytes]:
    """Configuration and tokenizer as the artifact keeps them."""
    if checkpoint is None:
        return {}
    files = {"config.json": json_bytes(dict(checkpoint.config) | QUANTIZED)}
    if (path := checkpoint.tokenizer_file) is not None:
        text = json.dumps(
            read_json(path, limit=TOKENIZER_BYTES, error=ModelError), ensure_ascii=False, separators=(",", ":")
        )
        files[TOKENIZER] = lzma.compress(text.encode(), preset=1)
    small = {name: checkpoint.folder / name for name in SMALL_FILES}
    return files | {name: path.read_bytes() for name, path in small.items() if path.is_file()}


def _some(checkpoint: Checkpoint | None) -> Checkpoint:
    assert checkpoint is not None
    return checkpoint
