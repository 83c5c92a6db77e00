"""A trunk from its folder, as trained or compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tailorbird.artifact.reader import Artifact
from tailorbird.errors import ModelError, TailorbirdError
from tailorbird.files import read_json
from tailorbird.runtime.load import check_fits, load_into
from tailorbird.tailor.device import COMPRESSED
from tailorbird.tailor.unpack import CONFIG, PLAN
from tailorbird.zoo.recommenders import folder
from tailorbird.zoo.recommenders.laid import empty
from tailorbird.zoo.recommenders.model import Recommender, shape_of


def read(path: Path) -> tuple[Recommender, dict[str, Any]]:
    """A recommender, and everything its folder says about it; of a compressed one the weights stay packed, and our
    kernels multiply by them.

    Args:
        path: what `tailorbird train`, `compress` or `tailor train` wrote.

    Raises:
        ModelError: missing, damaged, or not a recommender.
        ArtifactError: a compressed one that is damaged.
    """
    place = compressed(path)
    if place is None:
        return folder.read(path)
    artifact, about = Artifact.open(place), read_json(place / CONFIG, limit=2**28, error=ModelError)
    try:
        name, shape = str(about["name"]), shape_of(about["shape"])
        with torch.device("meta"):  # sizes that the artifact does not have are never made
            outline = empty(name, shape)
        check_fits(outline, artifact)
        tied = {f"{other}.weight" for part in artifact.plan.parts for other in part.tied}
        if outline.state_dict().keys() != artifact.tensors.keys() | tied:
            raise ModelError("its files have other tensors than its sizes say")
        model = empty(name, shape)
    except (AttributeError, KeyError, TypeError, TailorbirdError) as cause:
        raise ModelError(
            f"{path} is not a compressed recommender: {cause}", hint="tailorbird compress TRUNK"
        ) from cause
    # Activations stay float32: a trunk is small, and its scores are compared to the last digits.
    load_into(model, artifact, activations="fp32")
    return model.eval().requires_grad_(False), about


def compressed(path: Path) -> Path | None:
    """The folder of the packed weights, where a trunk is compressed: its own, or one below that of a tailored model."""
    return next((place for place in (path, path / COMPRESSED) if (place / PLAN).is_file()), None)
