"""The folder of an unfinished training of what makes heads: killed at any moment, it goes on with the same result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.zoo.recommenders import folder


@dataclass(frozen=True)
class Work:
    """Where states of a training are kept, a folder a stage.

    Attributes:
        folder: of all stages.
        job: everything that decides the result, as plain data.
    """

    folder: Path
    job: Mapping[str, Any]

    def save(self, stage: str, state: Any) -> None:
        """Keep the state of a stage at the end of an epoch."""
        folder.checkpoint(self.folder / stage, state, self.job)

    def restore(self, stage: str, state: Any) -> None:
        """Put a state where the stage was; it stays as it is where nothing was kept.

        Raises:
            UsageError: what was kept is of another job.
            ModelError: it is damaged.
        """
        folder.restore(self.folder / stage, state, self.job)
