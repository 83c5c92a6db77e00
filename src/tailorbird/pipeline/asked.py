"""What was asked for: who shares out the bits, what the device costs, and whether the budget is kept."""

from __future__ import annotations

from pathlib import Path

from tailorbird.anatomy import Model
from tailorbird.budget import Budget
from tailorbird.errors import BudgetError, UsageError
from tailorbird.runtime.profile import Profile

# Two measurements of the same model are this far apart at most.
TIMING = 0.05
ALLOCATORS = ("uniform", "measured", "ohq")
DEFAULT_ALLOCATOR = "uniform"


def allocator(name: str | None, budget: Budget, model: Model, given: bool) -> str:
    """The allocator asked for, or the default."""
    language = bool(model.anatomy.head and model.config)
    if name is None:
        name = "measured" if language and budget.milliseconds is not None and not given else DEFAULT_ALLOCATOR
    if name not in ALLOCATORS:
        raise UsageError(f"there is no allocator {name!r}", hint=f"allocators: {', '.join(ALLOCATORS)}")
    if name != "uniform" and not language:
        raise UsageError(f"{model.source} is no language model, and {name!r} needs one", hint="--allocate uniform")
    if budget.milliseconds is not None and given:
        raise UsageError("a given plan is as fast as it is", hint="leave the milliseconds out; see `tailorbird bench`")
    if budget.milliseconds is not None and name == "uniform":
        raise UsageError("the uniform allocation knows no milliseconds", hint="--allocate measured, or ohq")
    return name


def costs(profile: str | Path | None, budget: Budget, allocate: str) -> Profile | None:
    """The profile of the device that costs are counted on."""
    if profile is not None and (allocate != "ohq" or budget.profile is not None):
        raise UsageError(
            "a profile is what ohq weighs, where no budget names one",
            hint="--allocate ohq; or --budget 8ms/token@FILE, without --profile",
        )
    named = budget.profile if profile is None else profile
    return None if named is None else Profile.read(Path(named))


def check_budget(budget: Budget, nbytes: int, bits: float, what: str, milliseconds: float | None = None) -> None:
    """Raise BudgetError where bytes, bits or, beyond what measuring them is off by, milliseconds exceed the budget."""
    if budget.nbytes is not None and nbytes > budget.nbytes:
        raise BudgetError(
            f"{what} {nbytes} bytes, the budget is {budget.nbytes}",
            hint="lower some bits, or raise the budget",
        )
    if budget.bits is not None and bits > float(budget.bits):
        raise BudgetError(
            f"{what} {bits:.4f} bits, the budget is {float(budget.bits)}", hint="lower some bits, or raise it"
        )
    asked = budget.milliseconds
    if asked is not None and milliseconds is not None and milliseconds > (1 + TIMING) * float(asked):
        raise BudgetError(
            f"{what} {milliseconds:.4g} ms a token, the budget is {float(asked):g}",
            hint=f"compress where nothing else runs, or ask for {milliseconds:.3g}ms/token; the artifact is kept",
        )
