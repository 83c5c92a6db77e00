"""What is offered where an export would change weights: the artifact's plan solved anew under the target's rules."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.artifact.reader import Artifact
from tailorbird.errors import TailorbirdError
from tailorbird.files import read_toml
from tailorbird.methods import methods
from tailorbird.plan import Plan


@dataclass(frozen=True)
class Offer:
    """A way to avoid an export's changes.

    Attributes:
        command: what solves the plan anew.
        nbytes: of all packed weights as an artifact stores them: with the plan put into the target's formats, and with
            the plan solved anew; None where nothing was solved.
        errors: |W' - W| / |W| of both against the original model, Frobenius norms over some rows of every part; of the
            plan solved anew with every weight rounded to the nearest code, which methods do better. None likewise.
        raised: the smallest budget the target can keep, where that asked for is too small.
        exported: bytes of the export's files, where these have formats of their own.
    """

    command: str
    nbytes: tuple[int, int] | None = None
    errors: tuple[float, float] | None = None
    raised: str = ""
    exported: int = 0

    @property
    def text(self) -> str:
        """The command, for people."""
        return f"solve it anew for the target: {self.command}"

    @property
    def comparison(self) -> str:
        """Both sizes and both losses, for people; empty where nothing was solved."""
        if self.nbytes is None or self.errors is None:
            return ""
        sizes = [f"{self.exported or self.nbytes[0]:,} bytes", f"{self.nbytes[1]:,} bytes"]
        then, anew = (f"{size}, {error:.2%} off the original" for size, error in zip(sizes, self.errors, strict=True))
        first = "the export as it is" if self.exported else "packed weights in the target's formats"
        raised = f"; the budget is raised to the smallest possible, {self.raised}" if self.raised else ""
        return f"{first}: {then}; packed weights solved anew: {anew} (estimated by rounding to its formats){raised}"


Advise = Callable[[str, Artifact, Artifact, str | Path | None, float], Offer]
"""Makes an offer from a target's name, the artifact, the same in the target's formats, the original where it was named,
and the relative squared error that the target adds."""


def recipe(artifact: Artifact) -> dict[str, Any]:
    """The recipe an artifact was made with; empty where it has none that can be read."""
    path = artifact.folder / "recipe.toml"
    try:
        return read_toml(path) if path.is_file() else {}
    except TailorbirdError:
        return {}


def local_original(artifact: Artifact) -> str | None:
    """The model the recipe names, if nothing has to be fetched for it."""
    name = recipe(artifact).get("model")
    try:
        return name if isinstance(name, str) and (name.startswith("demo:") or Path(name).exists()) else None
    except OSError:
        return None


def budgets(artifact: Artifact) -> list[str]:
    """What was asked for; without a recipe what the artifact takes."""
    found = recipe(artifact).get("budget") or [f"{math.ceil(artifact.bits * 100) / 100:g}bits"]
    return [str(text) for text in (found if isinstance(found, list) else [found])]


def command(target: str, artifact: Artifact, budget: Sequence[str]) -> str:
    """The command that solves the plan anew under the target's rules."""
    found, plan = recipe(artifact), artifact.plan
    words = ["tailorbird", "compress", str(found.get("model", "MODEL")), "--method", plan.method]
    for text in budget:
        words += ["--budget", text]
    for key, usual in (("data", None), ("samples", 64), ("length", 512), ("seed", 0)):
        if found.get(key, usual) != usual:
            words += [f"--{key}", str(found[key])]
    for name, value in _chosen(plan).items():
        words += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join([*words, "--target", target, "--out", f"{artifact.folder.name}-{target}"])


def unsolved(
    target: str, artifact: Artifact, source: Artifact, original: str | Path | None = None, lost: float = 0.0
) -> Offer:
    """An `Offer` of the command alone."""
    return Offer(command(target, artifact, budgets(artifact)))


def _chosen(plan: Plan) -> dict[str, Any]:
    """Options that are not the method's defaults; all of a method that is not installed."""
    usual = methods()[plan.method]().options() if plan.method in methods() else {}
    return {name: value for name, value in plan.options.items() if usual.get(name) != value}
